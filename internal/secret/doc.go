// Package secret holds secrets that never print themselves, and seals them for where they are stored.
//
// A Secret goes through every formatter, encoder and logger as "***"; only Reveal gives its text, so that
// each place where a secret leaves can be found by one search. This also holds for a Secret in an unexported
// field, whose methods fmt cannot call: there fmt sees a pointer, not the text.
//
// A Keyring seals with AES-256-GCM under a Tink keyset, in which one key is the primary one, which seals, and
// the others open what was sealed before. What is sealed says by which key, and opens at its own place only:
// neither in another row nor in another column. Without a keyring secrets are stored as they are, and what is
// stored as it is stays readable with one, so that a database can be sealed while relays run.
//
// Source: https://developers.google.com/tink/wire-format
package secret
