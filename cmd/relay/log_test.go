package main

import (
	"bytes"
	"encoding/json"
	"log"
	"log/slog"
	"os"
	"strings"
	"testing"
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
