package main

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// maxQueuedLog bounds the lines that wait for a log that nobody reads, in bytes.
const maxQueuedLog = 1 << 20

// logQueue stands between the daemon and its log: a pipe that nobody reads, or a disk that hangs, must not hold up deliveries.
// Write never blocks. A line that finds no room, or that the log refuses (its reader is gone, its disk is full), is dropped and
// counted, and the log says how many once it takes lines again.
type logQueue struct {
	to   io.Writer
	tell func(lines int64) // writes that so many lines were dropped; set before run

	dropped atomic.Int64 // lines, only grows

	mu      sync.Mutex
	queued  []byte // whole lines that wait
	stopped bool
	wake    chan struct{}
	done    chan struct{}
}

// newLogQueue needs tell, run, and close at the end.
func newLogQueue(to io.Writer) *logQueue {
	return &logQueue{to: to, tell: func(int64) {}, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// Write takes one line.
func (q *logQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queued)+len(line) > maxQueuedLog {
		q.dropped.Add(1)
		return len(line), nil
	}
	q.queued = append(q.queued, line...)
	q.nudge()
	return len(line), nil
}

func (q *logQueue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run writes what is queued, until close. An error of the log itself has nowhere to go but the count.
func (q *logQueue) run() {
	defer close(q.done)
	var spare []byte
	var told int64
	works := true // the log took the last line
	for {
		q.mu.Lock()
		lines, stopped := q.queued, q.stopped
		q.queued = spare[:0]
		q.mu.Unlock()
		// A line at a time: who reads a pipe gets whole ones.
		for rest := lines; len(rest) > 0; {
			line := rest[:bytes.IndexByte(rest, '\n')+1]
			if len(line) == 0 {
				line = rest
			}
			_, err := q.to.Write(line)
			if works = err == nil; !works {
				q.dropped.Add(1)
			}
			rest = rest[len(line):]
		}
		spare = lines
		// Telling a log that refuses lines would drop one more each time.
		if n := q.dropped.Load(); n > told && works {
			q.tell(n - told)
			told = n
			continue
		}
		if len(lines) > 0 {
			continue
		}
		if stopped {
			return
		}
		<-q.wake
	}
}

// close waits for what is queued to be written, at most so long.
func (q *logQueue) close(limit time.Duration) {
	q.mu.Lock()
	q.stopped = true
	q.nudge()
	q.mu.Unlock()
	select {
	case <-q.done:
	case <-time.After(limit):
	}
}
