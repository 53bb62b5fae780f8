// Package deliver brings each event to each matching endpoint and settles it.
//
// # One event's way
//
// The router hands a [Flight] (an event, rendered, with its place in the
// stream) to [Dispatcher.Admit] together with the endpoints that match. Each
// pair is a [Delivery]. It is attempted at once from memory; what cannot be is
// parked: a row in relay.parked, in commit order within its lane.
//
// # Lanes
//
// A lane is one ordering key of one subscription. At most one delivery of a
// lane is on the wire, and none starts before the one ahead of it was delivered
// or went dead. While a lane has rows in the table, everything that comes for it
// goes behind them. A dead head gives way, or, if the subscription says so, halts
// its lane: its row stays first, without a time, until somebody retries or discards
// it. A subscription with ordering "none" gives each delivery a
// lane of its own.
//
// # When a delivery is parked
//
//   - its attempt failed and another is due later;
//   - it has not ended [Options.HandoverAfter] after it arrived. An attempt on
//     the wire goes on; the row makes it durable meanwhile;
//   - an earlier delivery of its lane is parked;
//   - its endpoint is disabled, given up for a while, or has asked for a pause;
//   - the secret to sign it with cannot be opened;
//   - the window, by events or by bytes, stays full.
//
// So nothing is in memory for longer than HandoverAfter, and the stream's
// watermark follows within that and one recording interval whatever the
// endpoints do.
//
// # When an endpoint fails
//
// After failures in a row, or when its attempts hang, its breaker opens: one
// delivery at a time tries it, ever more seldom, and the others spend no attempts.
// A 429 spends none either: it pauses the endpoint and lowers its rate. What waits
// comes back slowly when it works again. What takes nothing for too long is
// disabled, after a warning; its events are parked, never dropped.
//
// # Secrets
//
// A subscription's secrets stand in its row as they are, or sealed for this row and
// column. A rotation has phases, each of which is good for any time: staged, the
// next secret signs beside the current one; promoted, it is the current one and the
// one before signs beside it; over, when that has expired, which needs nobody's
// help. Events of a subscription whose secret cannot be opened are parked, spend no
// attempts, and go on when it can. That a secret is sealed anew changes nothing.
//
// Headers and the client certificate of a subscription are kept as its secrets are. A
// certificate comes with connections that only its endpoint uses ([Identity]); they are
// closed when it is replaced or taken away, and when its subscription goes. One that has
// expired is told of once and shown all the same: the receiver decides.
//
// # Recording
//
// Outcomes, parked rows and progress are written by one goroutine, the
// [Recorder], in one transaction a batch, under the leader's epoch. A ticket is
// done when all deliveries of its event are in a batch, and the position that
// the tickets reach is written with the batch and confirmed after its commit.
// When the database is away the Recorder tries the same batch again until it
// gets through; no attempt is started meanwhile after the first few hundred, and
// nothing is admitted. What the database refuses for its content is found by halves,
// is set aside by reference in relay.quarantine, and all else goes on.
//
// # After a crash
//
// What was recorded is not sent again: the stream begins at the recorded
// position, and relay.settled names what was recorded above it. What was on the
// wire, or delivered and not yet recorded, is sent again with the same
// webhook-id and the same body.
package deliver
