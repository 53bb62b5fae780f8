package daemon

import (
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/config"
)

func TestSilence_PatienceGrowsWhileNothingComesAndIsForgotten(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(config.LoadOptions{Environ: []string{"RELAY_DATABASE_URL=postgres://u@127.0.0.1/d", "RELAY_CDC_STATUS_INTERVAL=1s", "RELAY_CDC_SILENCE_TIMEOUT=10s"}})
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{}
	d.settings.Store(cfg)
	wants := func(want time.Duration) {
		t.Helper()
		if got := d.streamOptions().SilenceTimeout; got != want {
			t.Errorf("patience is %s, want %s", got, want)
		}
	}
	wants(10 * time.Second)
	d.noteSilence(true, false)
	wants(20 * time.Second)
	d.noteSilence(true, false)
	wants(40 * time.Second)
	for range 20 {
		d.noteSilence(true, false)
	}
	wants(320 * time.Second)
	d.noteSilence(true, true) // it had brought something
	wants(10 * time.Second)
	d.noteSilence(true, false)
	d.noteSilence(false, false) // another end
	wants(10 * time.Second)
}
