package main

import (
	"io"
	"log"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"

	"github.com/outbox-relay/relay/internal/config"
)

// newLog returns the log that the configuration asks for, and its level, which a
// reload may change. w leads to a terminal or not.
func newLog(w io.Writer, terminal bool, c config.Log) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(c.Level)
	if c.Format == config.LogFormatText || (c.Format == config.LogFormatAuto && terminal) {
		plain := !terminal || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: "15:04:05.000", NoColor: plain})), level
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: readable})), level
}

// readable writes durations as the text log has them, 1.5s: bare nanoseconds have no unit that a reader would know.
func readable(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindDuration:
		a.Value = slog.StringValue(a.Value.Duration().String())
	case slog.KindAny:
		if list, ok := a.Value.Any().([]time.Duration); ok {
			texts := make([]string, len(list))
			for i, d := range list {
				texts[i] = d.String()
			}
			a.Value = slog.AnyValue(texts)
		}
	}
	return a
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// longestLibraryLine is how much of a line of Go's own log is kept. net/http writes bytes
// of receivers into it.
const longestLibraryLine = 512

// libraryLog takes what libraries write to Go's standard log, which would go to stderr past
// ours: unstructured, at any length, and at the pace of whoever causes it.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Write(line []byte) (int, error) {
	text := strings.ToValidUTF8(strings.TrimRight(string(line[:min(len(line), longestLibraryLine)]), "\n"), "\uFFFD")
	l.log.Debug("a library says", "line", text)
	return len(line), nil
}

// catchLibraryLog sends Go's standard log to log.
func catchLibraryLog(to *slog.Logger) {
	log.SetFlags(0)
	log.SetOutput(libraryLog{to})
}
