// Package weak has what the checker must see, and what it must let through.
package weak

import "math/rand/v2"

// Seen is a finding.
func Seen() int { return rand.IntN(6) }

// Explained is let through.
func Explained() int { return rand.IntN(6) } // #nosec G404 -- dice

// Bare names no rule.
func Bare() int { return rand.IntN(6) } // #nosec -- dice

// Unreasoned says not why.
func Unreasoned() int { return rand.IntN(6) } // #nosec G404

// Other is about something else.
func Other() int { return rand.IntN(6) } // #nosec G304 -- dice
