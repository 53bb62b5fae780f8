// Package health names what keeps a relay from its whole job: the state, a sentence that says what is wrong, and the
// statement or command that mends it.
//
// What callers may rely on:
//
//   - [State] is a closed set, the same in the log, in /status, in `relay status` and as the label of relay_state.
//   - [Diagnose] knows one table of SQLSTATEs and situations. It keeps the server's own message, detail and hint, and
//     never shows a password.
//   - An error that knows better carries its [Condition]: [Fault].
//   - A [Board] holds one Condition for each part of the relay. The worst decides the state, and every state that needs
//     a person is repeated in the log until it is over.
//
// Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
package health
