package deliver

import (
	"testing"
	"time"
)

func TestSchedule_WaitsAtLeastItsDelayAndAtMostItsJitterLonger(t *testing.T) {
	t.Parallel()
	s := Schedule{Delays: []time.Duration{0, time.Second, time.Minute}, Jitter: 0.2, MaxRetryAfter: time.Hour}
	for made, delay := range s.Delays {
		longest := delay + delay/5
		spread := make(map[time.Duration]bool)
		for range 200 {
			wait, more := s.Next(made, 0)
			if !more || wait < delay || wait > longest {
				t.Fatalf("Next(%d) = %s, %v; want from %s to %s", made, wait, more, delay, longest)
			}
			spread[wait] = true
		}
		if delay > 0 && len(spread) < 100 {
			t.Errorf("Next(%d) gave only %d different waits", made, len(spread))
		}
	}
}

func TestSchedule_EndsAfterItsLastAttempt(t *testing.T) {
	t.Parallel()
	s := Schedule{Delays: []time.Duration{0, time.Second}}
	for made, want := range map[int]bool{0: true, 1: true, 2: false, 3: false} {
		if _, more := s.Next(made, time.Hour); more != want {
			t.Errorf("after %d attempts another: %v, want %v", made, more, want)
		}
	}
}

func TestSchedule_RetryAfterOnlyLengthens(t *testing.T) {
	t.Parallel()
	s := Schedule{Delays: []time.Duration{0, time.Minute}, MaxRetryAfter: time.Hour}
	for _, c := range []struct{ asked, want time.Duration }{
		{0, time.Minute},
		{time.Second, time.Minute},
		{-time.Hour, time.Minute},
		{2 * time.Minute, 2 * time.Minute},
		{time.Hour, time.Hour},
		{1000 * time.Hour, time.Hour},
	} {
		if got, _ := s.Next(1, c.asked); got != c.want {
			t.Errorf("asked for %s: wait %s, want %s", c.asked, got, c.want)
		}
	}
	s.Jitter = 0.5
	for range 200 {
		if got, _ := s.Next(0, 1000*time.Hour); got > time.Hour {
			t.Fatalf("jitter leads beyond the longest Retry-After, to %s", got)
		}
		if got := s.After(50*time.Minute, time.Minute); got < 50*time.Minute || got > time.Hour {
			t.Fatalf("after a pause of 50 minutes that was asked for, jitter leads to %s", got)
		}
	}
	s.Jitter, s.MaxRetryAfter = 0.5, time.Second
	if got, _ := s.Next(1, time.Hour); got < time.Minute {
		t.Errorf("a bound below the delay shortens it to %s", got)
	}
}
