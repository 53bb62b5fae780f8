package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outbox-relay/relay/internal/cdc"
)

// Status is what the daemon says of itself.
type Status struct {
	State       cdc.State `json:"state"`
	Detail      string    `json:"detail,omitempty"`
	Since       time.Time `json:"since"`
	Epoch       int64     `json:"epoch,omitempty"`
	Recorded    string    `json:"recorded_lsn,omitempty"`
	Confirmed   string    `json:"confirmed_lsn,omitempty"`
	Outstanding int       `json:"outstanding_transactions"`
	InFlight    int       `json:"attempts_in_flight"`
	Window      int       `json:"deliveries_in_window"`
	Ready       bool      `json:"ready"`
	NotReady    string    `json:"not_ready_because,omitempty"`
}

// stateKeeper holds the daemon's state: one gauge, and one log line a change.
type stateKeeper struct {
	log   *slog.Logger
	gauge *prometheus.GaugeVec

	mu     sync.Mutex
	state  cdc.State
	detail string
	since  time.Time
}

func newStateKeeper(reg prometheus.Registerer, log *slog.Logger) *stateKeeper {
	k := &stateKeeper{log: log, gauge: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "relay_state",
		Help: "1 for the state that the daemon is in."}, []string{"state"})}
	reg.MustRegister(k.gauge)
	for _, s := range cdc.States() {
		k.gauge.WithLabelValues(string(s)).Set(0)
	}
	k.set(cdc.StateStarting, "")
	return k
}

func (k *stateKeeper) set(s cdc.State, detail string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state == s && k.detail == detail {
		return
	}
	same := k.state == s
	if !same {
		if k.state != "" {
			k.gauge.WithLabelValues(string(k.state)).Set(0)
		}
		k.gauge.WithLabelValues(string(s)).Set(1)
		k.since = time.Now()
	}
	k.state, k.detail = s, detail
	level := slog.LevelInfo
	if s != cdc.StateStarting && s != cdc.StateStreaming && s != cdc.StateStandby && s != cdc.StateDraining {
		level = slog.LevelWarn
	}
	if same && !waitsForSomebody(s) {
		level = slog.LevelDebug // the state was told; its detail changes with each try
	}
	k.log.Log(context.Background(), level, "state changed", "state", string(s), "detail", detail)
}

// waitsForSomebody tells whether a state may last until a person does something. Its
// detail is the same at each try then, and says what.
func waitsForSomebody(s cdc.State) bool {
	switch s {
	case cdc.StateSlotMissing, cdc.StateSlotLost, cdc.StatePublicationMissing, cdc.StatePublicationIncomplete,
		cdc.StateWrongServer, cdc.StateMisconfigured:
		return true
	}
	return false
}

func (k *stateKeeper) get() (cdc.State, string, time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state, k.detail, k.since
}
