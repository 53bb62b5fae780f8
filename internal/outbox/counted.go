package outbox

import (
	"cmp"
	"slices"
)

// Counted is a number of rows of one event type.
type Counted struct {
	Event string `json:"event"`
	Rows  int    `json:"rows"`
}

// SortCounts returns counts by event type, the largest first.
func SortCounts(byName map[string]int) []Counted {
	list := make([]Counted, 0, len(byName))
	for name, n := range byName {
		list = append(list, Counted{name, n})
	}
	slices.SortFunc(list, func(a, b Counted) int { return cmp.Or(b.Rows-a.Rows, cmp.Compare(a.Event, b.Event)) })
	return list
}
