package pgcluster

import (
	"io"
	"os"
	"path/filepath"
	"strings"
)

// LogPath is the server's log file; it is removed with the cluster.
func (c *Cluster) LogPath() string { return c.logPath() }

func (c *Cluster) logPath() string { return filepath.Join(c.dir, "postgres.log") }

// LogTail is the last n lines of the server's log, for messages about a failed test; empty when there is no log.
func (c *Cluster) LogTail(n int) string {
	return lastLines(c.logSince(0), n)
}

// logSince is what the server wrote from a position on.
func (c *Cluster) logSince(from int64) string {
	f, err := os.Open(c.logPath())
	if err != nil {
		return ""
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return ""
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	return string(text)
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-max(0, n)):], "\n")
}
