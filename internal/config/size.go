package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written with a binary unit: 64KiB, 256MiB.
type Size int64

// The units of a Size.
const (
	B   Size = 1
	KiB      = 1024 * B
	MiB      = 1024 * KiB
	GiB      = 1024 * MiB
	TiB      = 1024 * GiB
)

// units from the largest, so that String finds the shortest form and ParseSize the longest suffix.
var units = []struct {
	name string
	size Size
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", B}}

var errSize = errors.New("not a whole number with the unit B, KiB, MiB, GiB or TiB")

// ParseSize reads a whole, non-negative number followed by one of B, KiB, MiB, GiB and TiB.
func ParseSize(s string) (Size, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimRight(digits, " "), 10, 63)
		if err != nil || n > uint64(math.MaxInt64/u.size) { // #nosec G115 -- units are positive
			return 0, errSize
		}
		return Size(n) * u.size, nil
	}
	return 0, errSize
}

// String returns the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return "0B"
}
