package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
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
