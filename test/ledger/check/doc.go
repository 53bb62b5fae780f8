// Package check judges the history of a run: every committed event is accounted for, none came that did not commit, the
// order of each key was kept, repeats are explained, and the relay's own books agree with what receivers wrote down.
//
// It reads a history and nothing else, so a kept report can be checked again. Each invariant has a letter and a number,
// by which violations, documents and planted defects name it.
package check
