// Package migrate brings a database's schema to the version of this binary, under a lock.
//
// What callers may rely on:
//
//   - [Up] may run any number of times, by any number of instances at once, on an empty database and on one with data.
//     Each migration is a transaction of its own and is recorded in it; all functions are replaced in one transaction.
//   - The lock is held by a transaction, not by a session, so it also holds through a pooler.
//   - [Up] needs no superuser: the role must own what earlier migrations made, and may CREATE on the database the first
//     time.
//   - Migrations only go forward. A database that is ahead of this binary is left alone: [ErrNewer].
//   - [Status] and [Check] change nothing.
package migrate
