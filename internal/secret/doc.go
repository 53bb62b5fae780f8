// Package secret holds secrets that never print themselves.
//
// A Secret goes through every formatter, encoder and logger as "***"; only Reveal gives its text, so that
// each place where a secret leaves can be found by one search. This also holds for a Secret in an unexported
// field, whose methods fmt cannot call: there fmt sees a pointer, not the text.
package secret
