// Package history holds what a run of the ledger writes down: what writers committed, what receivers got, what was done
// to the relay and to PostgreSQL meanwhile, and what the relay's own tables said at the end.
//
// A report is a directory of files with one JSON object a line, so that a run can be checked again later, by a better
// checker, without being run again.
package history
