// Package faultpoint lets tests hurt the relay at chosen places, and plant defects into it; a normal build has none of it.
//
// A build with the tag faultpoints reads two variables of its environment. RELAY_FAULTPOINTS says what happens at which
// place:
//
//	RELAY_FAULTPOINTS=after_park_commit=exit@3;before_status_update=sleep:200ms@5+
//
// The action is exit (as kill -9 would, with code 86), panic, error, or sleep with a duration; the number says at which
// passing it happens, once, or with a plus sign at each from then on. RELAY_DEFECT names one Defect, which makes the relay
// wrong in the way that its name says: test/ledger must find each.
//
// Without the tag, every function is empty or constant, and the compiler removes the calls and what depends on them.
package faultpoint
