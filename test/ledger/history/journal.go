package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Journal appends records to a file, one a line. It is safe for concurrent use.
type Journal struct {
	file *os.File

	mu     sync.Mutex
	buf    []byte
	synced *sync.Cond // broadcast when flushed has grown
	queued int        // records in buf or in the file
	safe   int        // records that are on disk
	busy   bool       // somebody flushes
	err    error
}

// OpenJournal creates a file in a directory.
func OpenJournal(dir, name string) (*Journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{file: f}
	j.synced = sync.NewCond(&j.mu)
	return j, nil
}

// Add appends a record and does not wait for the disk.
func (j *Journal) Add(record any) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(record); err != nil {
		return err
	}
	if len(j.buf) > 256<<10 && !j.busy {
		return j.flush(false)
	}
	return nil
}

func (j *Journal) append(record any) error {
	line, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.buf = append(append(j.buf, line...), '\n')
	j.queued++
	return j.err
}

// Sync appends the record that make returns and comes back when it is on disk. Whoever comes while another's records are on
// their way there goes with the next ones, so that many wait for one flush. make runs under the lock: records are
// in the order in which it was called.
func (j *Journal) Sync(make func() any) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(make()); err != nil {
		return err
	}
	mine := j.queued
	for j.safe < mine && j.err == nil {
		if j.busy {
			j.synced.Wait()
			continue
		}
		_ = j.flush(true)
	}
	return j.err
}

// flush writes what is buffered. The lock is not held meanwhile.
func (j *Journal) flush(sync bool) error {
	j.busy = true
	buf, upTo := j.buf, j.queued
	j.buf = nil
	j.mu.Unlock()
	_, err := j.file.Write(buf)
	if err == nil && sync {
		err = j.file.Sync()
	}
	j.mu.Lock()
	j.busy = false
	if err != nil {
		j.err = fmt.Errorf("write journal: %w", err)
	} else if sync {
		j.safe = upTo
	}
	j.synced.Broadcast()
	return j.err
}

// Close writes the rest.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.busy {
		j.synced.Wait()
	}
	return errors.Join(j.flush(true), j.file.Close())
}

// Write writes all records of a file at once.
func Write[T any](dir, name string, records []T) error {
	j, err := OpenJournal(dir, name)
	if err != nil {
		return err
	}
	for i := range records {
		if err := j.Add(&records[i]); err != nil {
			return errors.Join(err, j.Close())
		}
	}
	return j.Close()
}

// read reads the records of a file; one that is missing has none.
func read[T any](dir, name string) ([]T, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	defer f.Close()
	var all []T
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 1<<20), 64<<20)
	for lines.Scan() {
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return nil, fmt.Errorf("read report: %s, line %d: %w", name, len(all)+1, err)
		}
		all = append(all, v)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read report: %s: %w", name, err)
	}
	return all, nil
}
