// Package daemon builds all parts from a configuration, runs them, and stops them
// in order.
//
// # Lead
//
// The instance that streams from the slot leads; the others wait for it. A
// leader's memory (lanes, window, watermark) lives in one [leader] from the
// moment it takes over the epoch until it is superseded, the server changes, or
// the process stops. A connection that breaks in between is replaced, and the
// stream goes on after the last transaction that came in whole: nothing that is
// in memory is forgotten or repeated.
//
// # Start
//
// The publication exists before the slot. A slot is made only while there is no
// progress, with an exported snapshot: rows that were committed before it are
// read from the table under that snapshot and delivered first, so a row is
// promised from the moment of its commit, whether or not a relay was ever there.
//
// # Audit and rescue
//
// Markers go through the stream and prove what came before them (package audit).
// What they miss is delivered from the table. When the slot is gone, or shows a
// hole, a new one is made with an exported snapshot, and the rows which that
// snapshot shows and neither the last marker nor the record of what was settled
// since does are read from the table: the first start is the case without a marker.
//
// # Fence
//
// Each write carries the epoch. Nothing is sent while the replication connection is
// being replaced, nor after the process stood still, before it is sure that no other
// relay leads.
//
// # Stop
//
// Intake; attempts on the wire, up to the drain limit; the Recorder's last
// batch; the last confirmation; connections. The stream's goroutine answers the
// server until the end.
package daemon
