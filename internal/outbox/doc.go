// Package outbox turns a row of the outbox table into an event, or into a rejection that says why it is none.
//
// A [Mapper] knows which column holds what, a [Catalog] knows which types of event exist and what their data
// must look like. What callers may rely on:
//
//   - The payload's bytes pass through unchanged: no key is reordered, no number is rewritten, no escape is
//     resolved. Validation reads a copy. [Event.Body] embeds the bytes as they are, and renders the same bytes
//     each time.
//   - Whatever [Mapper.Map] accepts renders to a body that is valid JSON for any decoder that, like
//     encoding/json, stops at 10,000 levels of nesting.
//   - Amounts are never floats: 1500.00 stays 1500.00, and thirty digits stay thirty digits.
//   - When a payload repeats a member name, validation looks at the last one, as decoders do, and the receiver
//     gets all of them.
//   - A row that cannot become an event yields a [*Rejection] with a [Reason] of a closed set. The detail names
//     columns and members and hardly ever a value; no value is shown beyond 100 bytes. [EncodeRow] keeps the
//     row for quarantine without loss.
//   - Nothing that a row holds makes this package panic or work without bound: sizes, nesting, digits and
//     exponents are limited before anything is computed from them. Schemas judge a number of more than 1,000
//     digits, or with an exponent beyond 999, as one of about that size; the receiver gets all of it.
//
// Names of tenants, aggregates and event types come from rows and are not trusted: they must be valid UTF-8 of
// 1 to 255 bytes without control characters, and are neither trimmed nor folded.
package outbox
