package dev_test

import (
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/dev"
	"github.com/outbox-relay/relay/test/output"
)

func TestRun_ShowsEveryCommittedEventArriveAndTakesAllDown(t *testing.T) {
	out := output.New(t, "relay dev")
	err := dev.Run(t.Context(), dev.Options{Out: out, ExitAfter: 3 * time.Second, Every: 100 * time.Millisecond,
		Version: "test", LogLevel: slog.LevelWarn})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := out.String()
	for _, want := range []string{"payment.received", "customer.created", "sales_order.created", "signature verified", "psql '", " 0 repeats, 0 refused"} {
		if !strings.Contains(text, want) {
			t.Errorf("the terminal lacks %q:\n%s", want, text)
		}
	}
	dirs, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if strings.HasPrefix(d.Name(), "relay-pg-"+strconv.Itoa(os.Getpid())+"-") {
			t.Errorf("%s stays behind", d.Name())
		}
	}
}
