// Package e2e checks the built binary against real servers, writers and receivers, under faults.
//
// TestMain builds the binary once, with the race detector; RELAY_E2E_BINARY names one to use instead. A test starts
// it as a process of its own, lets writers commit rows beside a ledger that the relay never reads, hurts something in
// the middle, and compares what receivers recorded with the ledger:
//
//   - every committed row that a subscription matches was answered 2xx there, and nothing else arrived;
//   - per subscription and key, first arrivals are in commit order, and none comes before its predecessor was taken;
//   - a repeat has the id and the bytes of the first, happens only where the fault explains it, and is counted.
package e2e
