// Package token makes the bearer tokens of the API and tells whose they are.
//
// A token is text of 65 characters:
//
//	relay_ + 10 characters that find its row + 43 random characters + 6 characters of checksum
//
// all of them base 62. The random part has 256 bits. The prefix lets secret scanners recognise a token, and the checksum
// (CRC-32 of what stands before it) lets them, and the relay, tell one from a typing error without asking the database, in
// the way that GitHub published for its own (https://github.blog/engineering/behind-githubs-new-authentication-token-formats/).
// The text is shown once. The database keeps its SHA-256, which is enough for a text of 256 random bits.
package token
