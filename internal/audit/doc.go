// Package audit proves that every committed row was seen and settled.
//
// A marker is a snapshot that travels through the stream: the relay takes it and
// emits a message in the same transaction. When the message comes through, every
// transaction that the snapshot shows has come before it. So the rows that became
// visible between two markers, counted and hashed by one query, must equal those
// that the stream brought; what is missing is named.
//
//   - [Journal] keeps what the stream has shown since the last marker. A marker
//     that comes through divides it; what the snapshot does not show yet stays for
//     the next one.
//   - [Window] is the part between two markers, and [Table.Compare] compares it with
//     the table.
//
// Only markers count whose number the Journal expects: anybody may put a message
// into the WAL.
package audit
