// Package backoffice is an example of the domain code that the relay exists for: payments, leads and sales orders whose
// business row and outbox row commit in one transaction, or not at all.
//
// The pattern of every route that changes something:
//
//  1. begin; lock the business row (SELECT ... FOR UPDATE), so that the events of one aggregate commit in the order in
//     which the row really changed;
//  2. check the rule and change the row;
//  3. INSERT INTO outbox.events in the same transaction;
//  4. commit. Nobody calls a webhook, a queue or the relay.
//
// What callers may rely on:
//
//   - A change without its event, or an event without its change, is never visible to anybody.
//   - A request that repeats what is already so (the same callback, the second confirmation) answers 200 and makes no
//     second event; a request against the rules answers 409 and makes none either.
//   - Another tenant's id looks exactly like an unknown one: 404.
//   - Money is decimal text from the request through a numeric column into the event: 1500.00 stays 1500.00.
package backoffice
