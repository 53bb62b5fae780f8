// Package api serves tenants over REST: their subscriptions, their deliveries and the catalog of events.
//
// # Who may do what
//
// Each call has the tenant of its token. A handler gets a caller, and a caller's store is the only way to the database: it
// cannot be had without a tenant, and every statement in it names that tenant. What belongs to another tenant cannot be told
// from what does not exist. Each operation is registered with the role that it needs, so one without a rule cannot be made.
//
// # What a call may cost
//
// The API has a connection pool of its own, so that callers, however many, do not get in the way of recording; its
// statements are bounded in time, bodies and their nesting in size, calls by token and by address in number.
//
// # What an answer tells
//
// A refused call answers with a Problem (RFC 9457), which names the field at fault and never repeats its value: it may
// have been a secret. What went wrong inside is in the log, under the request id that the answer has.
//
// Every change is noted in relay.changes, in the transaction that makes it.
package api
