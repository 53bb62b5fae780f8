package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestLogQueue_PassesLinesOnInTheirOrder(t *testing.T) {
	t.Parallel()
	var to bytes.Buffer
	q := newLogQueue(&to)
	go q.run()
	var want strings.Builder
	for i := range 5_000 {
		fmt.Fprintf(q, "line %d\n", i)
		fmt.Fprintf(&want, "line %d\n", i)
	}
	q.close(time.Minute)
	if to.String() != want.String() || q.dropped.Load() != 0 {
		t.Errorf("%d bytes came through, %d lines dropped", to.Len(), q.dropped.Load())
	}
}

func TestLogQueue_DropsAndCountsWhatNobodyReads(t *testing.T) {
	t.Parallel()
	reader, writer := io.Pipe() // holds nothing: a write waits for its reader
	q := newLogQueue(writer)
	q.tell = func(n int64) { fmt.Fprintf(q, "%d were dropped\n", n) }
	go q.run()
	line := []byte(strings.Repeat("x", 1000) + "\n")
	const lines = 3 * maxQueuedLog / 1000
	for range lines {
		if n, err := q.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	dropped := q.dropped.Load()
	if dropped < lines/4 || dropped >= lines {
		t.Errorf("%d of %d lines dropped", dropped, lines)
	}
	read := make(chan string)
	go func() {
		text, _ := io.ReadAll(reader)
		read <- string(text)
	}()
	q.close(time.Minute)
	_ = writer.Close()
	text := <-read
	if n := strings.Count(text, string(line)); int64(n) != lines-dropped {
		t.Errorf("%d lines came through, want %d", n, lines-dropped)
	}
	if want := fmt.Sprintf("%d were dropped", dropped); !strings.Contains(text, want) {
		t.Errorf("the log does not say that %s", want)
	}
}

// brokenLog refuses lines until it is mended.
type brokenLog struct {
	mu     sync.Mutex
	mended bool
	taken  bytes.Buffer
}

func (b *brokenLog) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.mended {
		return 0, syscall.EPIPE
	}
	return b.taken.Write(line)
}

func TestLogQueue_CountsWhatTheLogRefusesAndSaysSoOnceItTakesLines(t *testing.T) {
	t.Parallel()
	to := new(brokenLog)
	q := newLogQueue(to)
	q.tell = func(n int64) { fmt.Fprintf(q, "%d were dropped\n", n) }
	go q.run()
	for i := range 3 {
		fmt.Fprintf(q, "line %d\n", i)
	}
	for deadline := time.Now().Add(time.Minute); q.dropped.Load() < 3; {
		if time.Now().After(deadline) {
			t.Fatalf("%d lines counted, want 3", q.dropped.Load())
		}
		time.Sleep(time.Millisecond)
	}
	to.mu.Lock()
	to.mended = true
	to.mu.Unlock()
	fmt.Fprintln(q, "taken")
	q.close(time.Minute)
	<-q.done
	if got, want := to.taken.String(), "taken\n3 were dropped\n"; got != want || q.dropped.Load() != 3 {
		t.Errorf("the log holds %q, want %q; %d lines counted, want 3", got, want, q.dropped.Load())
	}
}

func TestLogQueue_EndsThoughTheLogRefusesLines(t *testing.T) {
	t.Parallel()
	q := newLogQueue(new(brokenLog))
	q.tell = func(n int64) { fmt.Fprintf(q, "%d were dropped\n", n) }
	go q.run()
	fmt.Fprintln(q, "refused")
	q.close(time.Minute)
	<-q.done
	if q.dropped.Load() != 1 {
		t.Errorf("%d lines counted, want 1", q.dropped.Load())
	}
}

func TestLogQueue_EndsThoughNobodyReads(t *testing.T) {
	t.Parallel()
	reader, writer := io.Pipe()
	q := newLogQueue(writer)
	go q.run()
	fmt.Fprintln(q, "never read")
	q.close(10 * time.Millisecond)
	_ = reader.Close() // lets run go
	<-q.done
}
