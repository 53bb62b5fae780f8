package health

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

type desk struct {
	*Board
	log bytes.Buffer
	at  time.Time
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	d.Board = NewBoard(prometheus.NewRegistry(), slog.New(slog.NewTextHandler(&d.log, nil)), time.Minute)
	d.now = func() time.Time { return d.at }
	d.log.Reset()
	return d
}

// lines returns what was logged since the last call.
func (d *desk) lines() []string {
	defer d.log.Reset()
	return strings.Split(strings.TrimSuffix(d.log.String(), "\n"), "\n")
}

func (d *desk) states(t *testing.T) string {
	t.Helper()
	var set []string
	for _, s := range States() {
		if testutil.ToFloat64(d.gauge.WithLabelValues(string(s))) == 1 {
			set = append(set, string(s))
		}
	}
	return strings.Join(set, ",")
}

func TestBoard_TheWorstPartDecides(t *testing.T) {
	d := newDesk(t)
	d.Enter(Streaming)
	d.Raise(PartRecording, Condition{State: RecordingStalled, Sentence: "nothing is recorded"})
	d.Raise(PartSettings, Condition{State: Misconfigured, Sentence: "no right", Remedy: "GRANT it"})
	d.Raise(PartAudit, Condition{State: Streaming, Sentence: "a remark"})
	if got := d.Worst(); got.Part != PartSettings || got.State != Misconfigured {
		t.Errorf("decides %+v", got)
	}
	if got := d.states(t); got != "misconfigured" {
		t.Errorf("relay_state is 1 for %s", got)
	}
	var parts []string
	for _, r := range d.Reports() {
		parts = append(parts, r.Part)
	}
	if got := strings.Join(parts, " "); got != "settings recording audit" {
		t.Errorf("reports of %s", got)
	}
	d.Clear(PartSettings)
	if got := d.states(t); got != "recording_stalled" {
		t.Errorf("relay_state is 1 for %s", got)
	}
	d.Clear(PartRecording)
	if got := d.Worst(); got.State != Streaming || d.states(t) != "streaming" {
		t.Errorf("a remark decides: %+v", got)
	}
}

func TestBoard_RepeatsWhatNeedsAPerson(t *testing.T) {
	d := newDesk(t)
	d.Enter(Streaming)
	d.lines()
	d.Raise(PartRecording, Condition{State: Misconfigured, Sentence: "no right", Remedy: "GRANT it"})
	if got := d.lines(); len(got) != 1 || !strings.Contains(got[0], `hint="GRANT it"`) || !strings.Contains(got[0], "state=misconfigured") {
		t.Fatalf("logged %q", got)
	}
	for range 100 { // tried again and again
		d.Raise(PartRecording, Condition{State: Misconfigured, Sentence: "no right", Remedy: "GRANT it"})
		d.repeatDue()
	}
	if got := d.lines(); got[0] != "" {
		t.Errorf("logged %q", got)
	}
	for range 3 {
		d.at = d.at.Add(time.Minute)
		d.repeatDue()
		d.repeatDue()
		if got := d.lines(); len(got) != 1 || !strings.Contains(got[0], `msg="condition persists"`) || !strings.Contains(got[0], `hint="GRANT it"`) {
			t.Errorf("logged %q", got)
		}
	}
	d.Clear(PartRecording)
	d.lines()
	d.at = d.at.Add(time.Hour)
	d.repeatDue()
	if got := d.lines(); got[0] != "" {
		t.Errorf("logged after it was over: %q", got)
	}
}

func TestBoard_BoundsTheLogOfASentenceThatChangesAllTheTime(t *testing.T) {
	d := newDesk(t)
	d.Enter(Streaming)
	d.lines()
	for i := range 1000 {
		d.Raise(PartStream, Condition{State: Unreachable, Sentence: "try " + time.Duration(i).String()})
	}
	if n := len(d.lines()); n > mostSentences {
		t.Errorf("%d lines, want at most %d", n, mostSentences)
	}
	d.at = d.at.Add(time.Minute)
	d.repeatDue()
	if got := d.lines(); len(got) != 1 || !strings.Contains(got[0], "persists") {
		t.Errorf("logged %q", got)
	}
}

func TestBoard_ClearAllLeavesWhatItIsTold(t *testing.T) {
	d := newDesk(t)
	d.Raise(PartRecording, Condition{State: RecordingStalled, Sentence: "a"})
	d.Raise(PartSettings, Condition{State: Degraded, Sentence: "b"})
	d.ClearAll(PartSettings)
	if r := d.Reports(); len(r) != 1 || r[0].Part != PartSettings {
		t.Errorf("left %+v", r)
	}
}

func TestState_NeedsPerson(t *testing.T) {
	for s, want := range map[State]bool{Streaming: false, Standby: false, Starting: false, Draining: false, Rescuing: false, ShuttingDown: false,
		Degraded: true, RecordingStalled: true, Misconfigured: true, SlotMissing: true, ReadOnly: true, "unknown": true} {
		if got := s.NeedsPerson(); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
}
