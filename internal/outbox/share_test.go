package outbox

import (
	"testing"
	"time"
)

func TestShare_IsOfTheLastFiveMinutesAndOfEnoughRows(t *testing.T) {
	t.Parallel()
	var s Share
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	check := func(want bool, most Reason) {
		t.Helper()
		if got, above := s.Above(now, 0.1); above != want || want && got != most {
			t.Errorf("at %s: above %v, most %q", now.Format(time.TimeOnly), above, got)
		}
	}
	for range 20 {
		s.Note(now, ReasonTooLarge)
	}
	check(false, "") // too few
	for range 15 {
		s.Note(now, "")
		s.Note(now.Add(time.Minute), ReasonUnknownType)
	}
	now = now.Add(time.Minute)
	check(true, ReasonTooLarge)
	for range 10 {
		s.Note(now, ReasonUnknownType)
	}
	check(true, ReasonUnknownType)
	for range 1000 {
		s.Note(now, "")
	}
	check(false, "")
	now = now.Add(10 * time.Minute)
	check(false, "")
	for range 50 {
		s.Note(now, ReasonTooLarge)
	}
	check(true, ReasonTooLarge)
	if _, above := s.Above(now, 1); above {
		t.Error("more than all of them")
	}
}
