// Package filter tells whether an event's payload is what a subscription asks for.
//
// A filter is a JSON object of the form that other webhook senders have (Hookdeck, Outpost), after MongoDB's queries: names
// are members of the payload, and all that it says has to hold.
//
//	{"currency": "EUR", "amount": {"$gte": 100}, "customer": {"country": {"$in": ["AT", "DE"]}}}
//
// What a member is compared with:
//
//   - A string, a number, true, false or null: it is that. {"$eq": ...} says the same, {"$neq": ...} the opposite.
//   - $gt, $gte, $lt, $lte: with a number by value, with a string byte by byte, which is what dates in ISO 8601 want.
//   - $in, $nin: it is one of a list, or none of it.
//   - $exist: true when there is such a member, be it null; false when there is none.
//   - $startsWith, $endsWith, $contains: of a string.
//   - $and, $or with a list of filters, $not with one: of the value that they stand at, also of the whole payload.
//
// A number that a filter gives is compared by value and without rounding, with numbers however they are spelled and with
// decimal numbers in strings, which is how amounts are written: 100 is 1e2, and "100.00". A string that a filter gives is
// compared with strings only.
//
// Of an array of values any may do; for $neq and $nin, none may. Of an array of objects one has to be like all that is said of it;
// that none is, $not says. A member that is not there is unequal to everything.
//
// A filter that would have to look at very many values of a payload lets it through: see MaxSteps.
package filter
