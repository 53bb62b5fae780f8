// Package output keeps what tests let others write, to be read meanwhile.
package output

import (
	"bytes"
	"strings"
	"sync"
)

// Buffer keeps what is written. Its zero value is empty and ready for use by several goroutines at once.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer. It never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns all that was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Count returns how often a text stands in it.
func (b *Buffer) Count(part string) int { return strings.Count(b.String(), part) }
