package deliver

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func mustHistory(t *testing.T, b []byte) []Attempt {
	t.Helper()
	var all []Attempt
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return all
}

func TestHistory_HoldsEveryAttemptOnceOneHasFailed(t *testing.T) {
	var d Delivery
	taken := Outcome{StatusCode: 200, Duration: 3 * ms, Answer: "thank you"}
	if d.entry(taken, epoch) != nil {
		t.Error("a delivery that is taken at once makes a history")
	}
	for _, o := range []Outcome{
		{Reason: ReasonHTTP5xx, StatusCode: 503, Detail: "HTTP 503", Duration: 20 * ms, Answer: "busy", Address: "192.0.2.1:443",
			Phases: Phases{DNS: 1, Connect: 2, TLS: 3, FirstByte: 4}},
		throttle(0),
		{Reason: ReasonTimeout, Duration: 15 * time.Second},
	} {
		o.entry = d.entry(o, epoch)
		d.failed(o)
	}
	before := d.history
	d.note(d.entry(taken, epoch))
	if len(mustHistory(t, before)) != 3 {
		t.Error("what an op holds has changed")
	}
	all := mustHistory(t, d.history)
	if len(all) != 4 || d.attempts != 2 {
		t.Fatalf("%d entries and %d attempts, want 4 and 2: %s", len(all), d.attempts, d.history)
	}
	want := Attempt{N: 1, At: epoch.Add(-20 * ms), Millis: 20, Phases: Phases{1, 2, 3, 4}, Status: 503, Reason: ReasonHTTP5xx,
		Detail: "HTTP 503", Answer: "busy", Address: "192.0.2.1:443"}
	if all[0] != want {
		t.Errorf("entry %+v, want %+v", all[0], want)
	}
	for i, n := range []int{1, 0, 2, 3} {
		if all[i].N != n {
			t.Errorf("entry %d is attempt %d, want %d", i, all[i].N, n)
		}
	}
	if last := all[3]; last.Reason != "" || last.Status != 200 || last.Answer != "" {
		t.Errorf("the success is %+v", last)
	}
}

func TestHistory_StaysWithinItsBoundAndKeepsTheNewest(t *testing.T) {
	var d Delivery
	for i := range 1000 {
		o := throttle(0)
		o.StatusCode = i
		o.Answer = strings.Repeat("x", 512)
		d.note(d.entry(o, epoch))
		if len(d.history) > maxHistory+1024 {
			t.Fatalf("%d bytes after %d attempts", len(d.history), i)
		}
	}
	all := mustHistory(t, d.history)
	if len(all) < 40 || all[len(all)-1].Status != 999 {
		t.Errorf("%d entries, the last one %d", len(all), all[len(all)-1].Status)
	}
}

func TestPrintable_MakesTextThatPostgreSQLTakes(t *testing.T) {
	for in, want := range map[string]string{
		"fine, grüße\n\tx":  "fine, grüße\n\tx",
		"a\x00b\r\n\x1b[2J": "a\uFFFDb\n\uFFFD[2J",
		"cut \xe2\x82":      "cut \uFFFD",
		"\xff\xfe":          "\uFFFD",
		"\u0085\u009b":      "\uFFFD\uFFFD",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x00b\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if !utf8.ValidString(got) || strings.ContainsRune(got, 0) || printable(got) != got {
			t.Errorf("printable(%q) = %q", s, got)
		}
	})
}

// What a hostile receiver answers must never keep a batch from being written.
func TestHistory_OfHostileAnswersIsRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
		if try == 1 {
			return Outcome{Reason: ReasonHTTP5xx, StatusCode: 500, Detail: "HTTP\x00 500", Answer: "\x00\xff\\u0000\"\x1b]0;x\a\xed\xa0\x80", Address: "x"}
		}
		return ok(ctx, r, try)
	})
	w.arrived("a.test", l.send("k1")...)
	l.quiet()
	eventually(t, "it is recorded", func() bool { return w.ended(StatusDelivered) == 1 })
	if l.errorCount() != 0 {
		t.Error("a batch has failed")
	}
	if got := w.text("SELECT history->0->>'answer' FROM relay.deliveries"); got != "\uFFFD\uFFFD\\u0000\"\uFFFD]0;x\uFFFD\uFFFD" {
		t.Errorf("answer %q", got)
	}
}
