package output

import (
	"bytes"
	"strings"
	"sync"
	"testing"
)

// Buffer keeps what is written, for several goroutines at once. New makes one; the zero value cannot be written to, because
// nobody would look for secrets in it.
type Buffer struct {
	what string
	mu   sync.Mutex
	b    bytes.Buffer
	made bool
}

// New returns an empty Buffer, in which the end of the test looks for secrets. What says in a message whose words they are.
func New(t testing.TB, what string) *Buffer {
	t.Helper()
	b := &Buffer{what: what, made: true}
	keep(t, b)
	t.Cleanup(func() { b.check(t) })
	return b
}

// Once returns a Buffer for a command that may show a secret once, when it makes it: secrets are looked for by Said, when
// those that it was given are known and that one is not yet.
func Once(what string) *Buffer { return &Buffer{what: what, made: true} }

// Said looks for the secrets that are known by now, and returns all that was written.
func (b *Buffer) Said(t testing.TB) string {
	t.Helper()
	b.check(t)
	return b.String()
}

func (b *Buffer) check(t testing.TB) {
	t.Helper()
	Check(t, b.what, b.String())
}

// Write implements io.Writer. It never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	if !b.made {
		panic("output: a Buffer that New has not made")
	}
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
