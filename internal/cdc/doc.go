// Package cdc turns PostgreSQL's logical replication stream into committed
// rows and confirms what has been recorded.
//
// It knows publications, slots, relations and tuples, and nothing of webhooks.
//
// # What callers may rely on
//
//   - Only committed transactions come through (protocol version 1), in commit
//     order, as Begin, Row..., Commit. A large transaction streams through row
//     by row in bounded memory.
//   - One goroutine, the one in [Stream.Run], owns the connection. It answers
//     the server on its own timer, in the middle of a transaction and while the
//     reader of its batches is blocked too.
//   - No position is ever computed. What is confirmed is the end of a
//     transaction or the position of a keepalive, both as the server sent them,
//     never lower than before and never above what this session has received;
//     [Stream.Confirm] refuses anything else.
//   - A keepalive's position takes its place in the stream like a transaction
//     without rows, so it is confirmed only when all before it is recorded, and
//     it is dropped inside a transaction.
//   - Nothing in a [Row] aliases the read buffer.
//   - Message types that this version does not know are counted and skipped.
//   - Silence is death: a connection on which nothing arrives for the silence
//     timeout, although a reply was asked for, is given up.
//
// # After a failure
//
// Run returns the error; [Classify] names the state. The caller connects again
// and starts at the end of the last transaction it received in full, or at its
// recorded progress when it has lost its memory.
//
// Sources: https://www.postgresql.org/docs/current/protocol-logical-replication.html,
// https://www.postgresql.org/docs/current/protocol-replication.html.
package cdc
