package main

import (
	"bytes"
	"encoding/json"
	"log"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/config"
)

func TestLog_CatchesWhatLibrariesWriteAndCutsIt(t *testing.T) {
	t.Cleanup(func() {
		log.SetOutput(os.Stderr)
		log.SetFlags(log.LstdFlags)
	})
	var out bytes.Buffer
	catchLibraryLog(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	log.Printf("Unsolicited response received on idle HTTP channel starting with %q", strings.Repeat("\x00", 4096))
	var line struct{ Level, Msg, Line string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v: %.200s", err, out.String())
	}
	if line.Level != "DEBUG" || !strings.HasPrefix(line.Line, "Unsolicited response") || len(line.Line) > longestLibraryLine {
		t.Errorf("got %+v", line)
	}
	out.Reset()
	catchLibraryLog(slog.New(slog.NewJSONHandler(&out, nil)))
	log.Print("anything")
	if out.Len() > 0 {
		t.Errorf("it shows at the usual level: %s", out.String())
	}
}

// Both forms of a line say the same of a duration, with its unit.
func TestLog_WritesDurationsWithTheirUnit(t *testing.T) {
	for _, form := range []config.LogFormat{config.LogFormatJSON, config.LogFormatText} {
		var out bytes.Buffer
		log, _ := newLog(&out, false, config.Log{Level: slog.LevelInfo, Format: form})
		log = log.With("since", 90*time.Second).WithGroup("attempt")
		log.Info("circuit opened", "took", 1500*time.Millisecond, slog.Group("wait", "left", 250*time.Millisecond), "of", []time.Duration{time.Second},
			"number", 1500000000)
		for _, want := range []string{"1m30s", "1.5s", "250ms", "1s", "1500000000"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %s in %s", form, want, out.String())
			}
		}
		if form == config.LogFormatJSON {
			var line map[string]any
			if err := json.Unmarshal(out.Bytes(), &line); err != nil {
				t.Fatalf("%v: %s", err, out.String())
			}
			if line["since"] != "1m30s" {
				t.Errorf("since is %v, want 1m30s", line["since"])
			}
		}
	}
}
