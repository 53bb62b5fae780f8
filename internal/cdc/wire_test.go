package cdc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outbox-relay/relay/internal/health"
)

// wire is a Stream whose server is the test: time is the bubble's, and what
// arrives when is decided byte by byte.
type wire struct {
	t      *testing.T
	stream *Stream
	server net.Conn
	out    chan []Item
	cancel context.CancelFunc
	ended  chan error

	mu       sync.Mutex
	statuses []status
}

// status is one status update as the server reads it.
type status struct {
	write, flush, apply LSN
	askReply            bool
	at                  time.Time
}

// newWire must be called inside a synctest bubble.
func newWire(t *testing.T, opts StreamOptions) *wire {
	t.Helper()
	client, server := net.Pipe()
	s := newStream(&pgconn.HijackedConn{Conn: client, Frontend: pgproto3.NewFrontend(client, client)}, opts, 0, 0, 0)
	ctx, cancel := context.WithCancel(t.Context())
	w := &wire{t: t, stream: s, server: server, out: make(chan []Item), cancel: cancel, ended: make(chan error, 1)}
	go w.readStatuses()
	go func() { w.ended <- s.Run(ctx, w.out) }()
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		_ = s.Close(0)
		synctest.Wait()
	})
	return w
}

func (w *wire) readStatuses() {
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(w.server, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(w.server, body); err != nil {
			return
		}
		if head[0] != 'd' || body[0] != 'r' {
			continue
		}
		w.mu.Lock()
		w.statuses = append(w.statuses, status{
			write: LSN(binary.BigEndian.Uint64(body[1:])), flush: LSN(binary.BigEndian.Uint64(body[9:])),
			apply: LSN(binary.BigEndian.Uint64(body[17:])), askReply: body[33] == 1, at: time.Now(),
		})
		w.mu.Unlock()
	}
}

func (w *wire) seen() []status {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]status(nil), w.statuses...)
}

func (w *wire) send(b []byte) {
	w.t.Helper()
	_ = w.server.SetWriteDeadline(time.Now().Add(time.Hour))
	if _, err := w.server.Write(b); err != nil {
		w.t.Fatalf("server writes: %v", err)
	}
}

// take waits for n items.
func (w *wire) take(n int) []Item {
	w.t.Helper()
	var items []Item
	limit := time.After(time.Hour)
	for len(items) < n {
		select {
		case batch := <-w.out:
			items = append(items, batch...)
		case err := <-w.ended:
			w.t.Fatalf("stream ended: %v", err)
		case <-limit:
			w.t.Fatalf("%d items arrived, want %d", len(items), n)
		}
	}
	return items
}

func TestStream_SetsAllThreePositionsToTheConfirmedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, StreamOptions{})
		w.send(keepaliveFrame(100, false))
		w.take(1)
		if err := w.stream.Confirm(70); err != nil {
			t.Fatal(err)
		}
		time.Sleep(minStatusGap)
		statuses := w.seen()
		last := statuses[len(statuses)-1]
		if last.write != 70 || last.flush != 70 || last.apply != 70 {
			t.Errorf("status %+v, want 70 three times", last)
		}
	})
}

func TestStream_RefusesToConfirmWhatItHasNotReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, StreamOptions{})
		w.send(slices.Concat(keepaliveFrame(100, false), walFrame(beginMessage(150, 1)),
			keepaliveFrame(150, false), walFrame(commitMessage(150, 180))))
		items := w.take(3)
		if w.stream.Received() != 180 {
			t.Errorf("received %s after %+v, want the transaction's end", w.stream.Received(), items)
		}
		if err := w.stream.Confirm(181); err == nil {
			t.Error("a position above everything received was taken")
		}
		if err := w.stream.Confirm(180); err != nil {
			t.Error(err)
		}
		if err := w.stream.Confirm(100); err != nil || w.stream.Confirmed() != 180 {
			t.Errorf("confirmed %s, %v after a lower confirmation, want 180 and no error", w.stream.Confirmed(), err)
		}
	})
}

func TestStream_DropsKeepaliveInsideTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, StreamOptions{})
		w.send(slices.Concat(walFrame(beginMessage(150, 1)), keepaliveFrame(150, true),
			walFrame(commitMessage(150, 180)), keepaliveFrame(200, false)))
		var kinds []ItemKind
		for _, it := range w.take(3) {
			kinds = append(kinds, it.Kind)
		}
		if len(kinds) != 3 || kinds[0] != ItemBegin || kinds[1] != ItemCommit || kinds[2] != ItemKeepalive {
			t.Errorf("items %v, want begin, commit, keepalive", kinds)
		}
		if n := len(w.seen()); n < 2 {
			t.Errorf("%d status updates, want an answer to the keepalive inside the transaction too", n)
		}
	})
}

func TestStream_AsksForAReplyOnItsTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, StreamOptions{StatusInterval: 10 * time.Second, SilenceTimeout: 31 * time.Second})
		begin := time.Now()
		time.Sleep(25 * time.Second)
		statuses := w.seen()
		if len(statuses) != 3 {
			t.Fatalf("%d status updates in 25 s at an interval of 10 s: %+v", len(statuses), statuses)
		}
		for i, s := range statuses {
			if !s.askReply {
				t.Errorf("status update %d at %s asks for no reply", i, s.at.Sub(begin))
			}
		}
	})
}

func TestStream_IsNotSilentOnAnIdleServerThatAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The interval is longer than the silence that is allowed.
		w := newWire(t, StreamOptions{StatusInterval: 10 * time.Second, SilenceTimeout: 5 * time.Second})
		go func() {
			for range w.out { //nolint:revive // only taken
			}
		}()
		defer close(w.out)
		answered := 0
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			statuses := w.seen()
			for ; answered < len(statuses); answered++ {
				if statuses[answered].askReply {
					w.send(keepaliveFrame(100, false))
				}
			}
			select {
			case err := <-w.ended:
				t.Fatalf("stream ended although each question was answered: %v", err)
			default:
			}
		}
		w.cancel()
		<-w.ended
	})
}

func TestStream_AsksForAReplyWhileConfirmationsGoOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, StreamOptions{StatusInterval: 10 * time.Second, SilenceTimeout: 30 * time.Second})
		w.send(keepaliveFrame(1000, false))
		w.take(1)
		asked := len(w.seen())
		for i := range 20 {
			if err := w.stream.Confirm(LSN(100 + i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		for _, s := range w.seen()[asked:] {
			if s.askReply {
				return
			}
		}
		t.Error("20 s of nothing but confirmations, and the server was never asked for a sign of life")
	})
}

func TestStream_CallsALateServerSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, StreamOptions{StatusInterval: 10 * time.Second, SilenceTimeout: 25 * time.Second})
		begin := time.Now()
		err := <-w.ended
		if !errors.Is(err, ErrSilent) {
			t.Fatalf("stream ended with %v, want ErrSilent", err)
		}
		if took := time.Since(begin); took < 25*time.Second || took > 26*time.Second {
			t.Errorf("noticed after %s, want the silence timeout of 25 s", took)
		}
	})
}

func TestStream_WaitsForASilentServerThatIsAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, asked := time.Now(), 0
		w := newWire(t, StreamOptions{StatusInterval: 5 * time.Second, SilenceTimeout: 20 * time.Second,
			AtWork: func(context.Context, uint32) bool { asked++; return asked < 4 }})
		time.Sleep(50 * time.Second)
		if since := w.stream.AtWorkSince(); since.Sub(begin) > time.Second {
			t.Errorf("at work since %s, want since the last byte", since.Sub(begin))
		}
		if quiet := time.Since(w.stream.LastActivity()); quiet < 49*time.Second {
			t.Errorf("heard %s ago, although nothing was sent for 50 s", quiet)
		}
		if err := <-w.ended; !errors.Is(err, ErrSilent) {
			t.Fatalf("stream ended with %v, want ErrSilent", err)
		}
		if took := time.Since(begin); asked != 4 || took < 80*time.Second || took > 81*time.Second {
			t.Errorf("given up after %s and %d questions, want 80 s and 4", took, asked)
		}
	})
}

func TestStream_AnswersWhileReaderIsBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, StreamOptions{StatusInterval: time.Second, SilenceTimeout: 30 * time.Second})
		w.send(keepaliveFrame(100, false))
		time.Sleep(10 * time.Minute) // nobody takes from out
		statuses := w.seen()
		for i := 1; i < len(statuses); i++ {
			if gap := statuses[i].at.Sub(statuses[i-1].at); gap > 1300*time.Millisecond {
				t.Fatalf("%s between two status updates at an interval of 1 s", gap)
			}
		}
		if len(statuses) < 400 {
			t.Errorf("%d status updates in 10 minutes", len(statuses))
		}
		w.take(1)
		w.send(keepaliveFrame(200, false))
		w.take(1)
	})
}

// A read deadline that passes inside a message must be set again: a deadline in
// the past fails every read, also when bytes are there.
func TestStream_ReadsOnAfterATimerInsideAMessage(t *testing.T) {
	for name, disturb := range map[string]func(*wire){
		"status timer": func(w *wire) { time.Sleep(15 * time.Second) },
		"confirmation": func(w *wire) {
			if err := w.stream.Confirm(50); err != nil {
				w.t.Fatal(err)
			}
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, StreamOptions{StatusInterval: 10 * time.Second, SilenceTimeout: 30 * time.Second})
				w.send(keepaliveFrame(100, false))
				w.take(1)
				w.send(slices.Concat(walFrame(beginMessage(150, 1)), walFrame(relationMessage(7, "outbox", "events", "body"))))
				w.take(1)
				body := strings.Repeat("x", 100_000)
				row := walFrame(insertMessage(7, textValue(body)))
				w.send(row[:50_000])
				before := len(w.seen())
				disturb(w)
				if len(w.seen()) == before {
					time.Sleep(minStatusGap)
				}
				if len(w.seen()) == before {
					t.Error("no status update while a message was half read")
				}
				w.send(row[50_000:])
				items := w.take(1)
				if got := string(items[0].Row.Values[0].Data); got != body {
					t.Errorf("row of %d bytes, want %d", len(got), len(body))
				}
			})
		})
	}
}

func TestStream_ReadsOnAfterAReaderThatBlockedInsideAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, StreamOptions{StatusInterval: time.Second, SilenceTimeout: 30 * time.Second})
		w.send(slices.Concat(walFrame(beginMessage(150, 1)), walFrame(relationMessage(7, "outbox", "events", "body"))))
		w.take(1)
		// A full batch and the head of the next row arrive in one read.
		var burst []byte
		for range batchItems {
			burst = append(burst, walFrame(insertMessage(7, textValue("x")))...)
		}
		next := walFrame(insertMessage(7, textValue("next")))
		w.send(append(burst, next[:20]...))
		time.Sleep(5 * time.Second) // longer than the read deadline
		w.take(batchItems)
		w.send(next[20:])
		if got := string(w.take(1)[0].Row.Values[0].Data); got != "next" {
			t.Errorf("row %q, want next", got)
		}
	})
}

// A row that takes longer than the silence timeout to arrive is no silence.
func TestStream_CountsTheBytesOfASlowMessageAsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, StreamOptions{StatusInterval: time.Second, SilenceTimeout: 5 * time.Second})
		w.send(slices.Concat(walFrame(beginMessage(150, 1)), walFrame(relationMessage(7, "outbox", "events", "body"))))
		w.take(1)
		row := walFrame(insertMessage(7, textValue(strings.Repeat("x", 200_000))))
		for len(row) > 0 {
			n := min(len(row), 10_000)
			w.send(row[:n])
			row = row[n:]
			select {
			case err := <-w.ended:
				t.Fatalf("stream ended with %d bytes to come: %v", len(row), err)
			case <-time.After(time.Second):
			case batch := <-w.out:
				if len(row) > 0 || batch[0].Kind != ItemRow {
					t.Fatalf("%+v with %d bytes to come", batch, len(row))
				}
			}
		}
	})
}

func TestStream_EndsByWhatTheServerSays(t *testing.T) {
	response := func(kind byte, severity, code, message string) []byte {
		var body []byte
		for _, f := range []string{"S" + severity, "V" + severity, "C" + code, "M" + message} {
			body = append(append(body, f...), 0)
		}
		body = append(body, 0)
		return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
	}
	tests := map[string]struct {
		frame []byte
		check func(error) bool
	}{
		"terminated": {response('E', "FATAL", "57P01", "terminating connection"), ServerGoesDown},
		"publication skipped by 18": {response('N', "WARNING", "55000", `skipped loading publication "p"`),
			func(err error) bool { return errors.Is(err, ErrPublicationMissing) }},
		"copy done":       {[]byte{'c', 0, 0, 0, 4}, func(err error) bool { return Classify(err) == health.ShuttingDown }},
		"short WAL data":  {copyData([]byte{'w', 1, 2}), func(err error) bool { return errors.Is(err, ErrMalformed) }},
		"short keepalive": {copyData([]byte{'k', 1, 2}), func(err error) bool { return errors.Is(err, ErrMalformed) }},
		"empty copy data": {copyData(nil), func(err error) bool { return errors.Is(err, ErrMalformed) }},
		"foreign message": {[]byte{'Z', 0, 0, 0, 5, 'I'}, func(err error) bool { return err != nil }},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, StreamOptions{})
				w.send(tc.frame)
				if err := <-w.ended; !tc.check(err) {
					t.Errorf("ended with %v", err)
				}
			})
		})
	}
}

func TestStream_PassesOverFramesThatItDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, StreamOptions{})
		w.send(slices.Concat(copyData([]byte{'?', 1, 2, 3}), walFrame([]byte{'?', 1, 2, 3}), keepaliveFrame(100, false)))
		if items := w.take(1); items[0].Kind != ItemKeepalive {
			t.Errorf("%+v, want the keepalive", items)
		}
	})
}
