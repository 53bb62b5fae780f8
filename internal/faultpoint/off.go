//go:build !faultpoints

package faultpoint

// Enabled tells whether this build can be hurt.
const Enabled = false

// Hit is a place that a test may choose.
func Hit(Point) {}

// Fail is Hit where an error can be returned: it returns err, or the error that the test wants.
func Fail(_ Point, err error) error { return err }

// Planted tells whether a defect is planted.
func Planted(Defect) bool { return false }
