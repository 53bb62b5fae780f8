package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/postgres"
	"github.com/outbox-relay/relay/internal/progress"
)

// Status is what the daemon says of itself.
type Status struct {
	State      health.State    `json:"state"`
	Detail     string          `json:"detail,omitempty"`
	Remedy     string          `json:"remedy,omitempty"`
	Since      time.Time       `json:"since"`
	Conditions []health.Report `json:"conditions"` // of all parts that have one, the worst first
	// NeedsRestart are the keys whose values in the configuration wait for a restart, as of the last reload.
	NeedsRestart []string   `json:"needs_restart"`
	Version      string     `json:"version"`
	WAL          *WALStatus `json:"wal,omitempty"` // while leading, once it was looked at
	Epoch        int64      `json:"epoch,omitempty"`
	Recorded     string     `json:"recorded_lsn,omitempty"`
	Confirmed    string     `json:"confirmed_lsn,omitempty"`
	Outstanding  int        `json:"outstanding_transactions"`
	InFlight     int        `json:"attempts_in_flight"`
	Window       int        `json:"deliveries_in_window"`
	Ready        bool       `json:"ready"`
	NotReady     string     `json:"not_ready_because,omitempty"`
}

// WALStatus is what the slot holds, of what it may hold.
type WALStatus struct {
	Held   int64 `json:"held_bytes"`
	Budget int64 `json:"budget_bytes"` // 0: any amount
	Level  int   `json:"level"`        // of relay_wal_budget_level
	// SecondsToLoss is when the slot may be lost, as what it holds grows now; null: it does not grow, or has no limit.
	SecondsToLoss *float64 `json:"seconds_to_loss"`
}

// Status describes the daemon at this moment.
func (d *Daemon) Status() Status {
	worst := d.board.Worst()
	s := Status{State: worst.State, Detail: worst.Sentence, Remedy: worst.Remedy, Since: worst.Since, Conditions: d.board.Reports(),
		NeedsRestart: append([]string{}, d.needRestart()...)}
	s.Version = d.opts.Version
	if l := d.current.Load(); l != nil {
		s.WAL = l.wal.Load()
		s.Epoch = l.state.Epoch
		s.Recorded = l.recordedEnd().String()
		s.Outstanding = l.watermark.Outstanding()
		load := l.dispatcher.Load()
		s.InFlight, s.Window = load.InFlight, load.Window
		if st := l.stream.Load(); st != nil {
			s.Confirmed = st.Confirmed().String()
		}
	}
	if err := d.ready(); err != nil {
		s.NotReady = err.Error()
	} else {
		s.Ready = true
	}
	return s
}

// ready returns nil when the relay does its whole job: it reads, routes, records and audits.
func (d *Daemon) ready() error {
	if worst := d.board.Worst(); worst.State != health.Streaming {
		if why := worst.String(); why != "" {
			return fmt.Errorf("%s: %s", worst.State, why)
		}
		return errors.New(string(worst.State))
	}
	l := d.current.Load()
	if l == nil {
		return errors.New("not leading")
	}
	st := l.stream.Load()
	if st == nil {
		return errors.New("the replication connection is being replaced")
	}
	limit := d.cfg().CDC.SilenceTimeout
	if quiet := time.Since(st.LastActivity()); quiet > limit {
		return fmt.Errorf("nothing heard from PostgreSQL for %s", quiet.Round(time.Second))
	}
	if stalled := l.stalled(); stalled > limit {
		return fmt.Errorf("the recorded position has not moved for %s although events wait", stalled.Round(time.Second))
	}
	return nil
}

// Facts are the names that go into sentences and statements.
func Facts(c *Settings) health.Facts {
	f := health.Facts{Table: c.Outbox.Table, Slot: c.CDC.Slot, Publication: c.CDC.Publication}
	if cfg, err := postgres.ParseConfig(c.Database.URL); err == nil {
		f.Role, f.Database = cfg.User, cfg.Database
	}
	if cfg, err := postgres.ParseConfig(c.Database.ReplicationURL); err == nil {
		f.ReplicationRole = cfg.User
	}
	return f
}

// diagnose says what an error of this package, or of those it wires, means.
func (d *Daemon) diagnose(err error) health.Condition {
	c := health.Diagnose(err, Facts(d.cfg()))
	var fault *health.Fault
	if errors.As(err, &fault) {
		return c
	}
	return sentinel(err, c)
}

// sentinel gives the errors that these packages know by name their state.
func sentinel(err error, c health.Condition) health.Condition {
	known := func(s health.State, remedy string) health.Condition {
		return health.Condition{State: s, Sentence: health.Describe(err), Remedy: remedy}
	}
	switch {
	case errors.Is(err, progress.ErrWrongServer):
		return known(health.WrongServer, "connect to the server that the relay has read, or, when this is the server now, run `relay rescue`")
	case errors.Is(err, ErrSlotLost):
		return known(health.SlotLost, "run `relay rescue`")
	case errors.Is(err, ErrSlotGap):
		return known(health.SlotMissing, "run `relay rescue`")
	case errors.Is(err, deliver.ErrSuperseded):
		return known(health.Standby, "")
	case errors.Is(err, migrate.ErrOutdated):
		return known(health.Misconfigured, "run `relay migrate`")
	case errors.Is(err, migrate.ErrNewer):
		return known(health.Misconfigured, "install a newer relay")
	case errors.Is(err, errForeignSlot):
		return known(health.Misconfigured, "set cdc.slot to another name, or drop that slot")
	case errors.Is(err, errForeignIDs): // it ends with what to do
		return known(health.Misconfigured, "")
	case errors.Is(err, errLetGo):
		return known(health.ShuttingDown, "")
	case errors.Is(err, cdc.ErrSlotTaken):
		return known(health.Standby, "")
	case errors.Is(err, cdc.ErrPublicationMissing):
		return known(health.PublicationMissing, "run `relay rescue`")
	case errors.Is(err, cdc.ErrPublicationIncomplete): // it ends with the statement
		return known(health.PublicationIncomplete, "")
	case errors.Is(err, cdc.ErrMalformed):
		return known(health.DecodePoison, "install a newer relay, or look at what stands between it and PostgreSQL")
	case errors.Is(err, cdc.ErrEnded):
		return known(health.ShuttingDown, "")
	}
	return c
}

// noteFailure shows why this instance does not stream.
func (d *Daemon) noteFailure(err error) health.State {
	c := d.diagnose(err)
	if c.State == health.Standby {
		d.board.Enter(health.Standby)
		d.board.Clear(health.PartStream)
		return c.State
	}
	d.board.Raise(health.PartStream, c)
	return c.State
}

// noteStreaming shows that the stream moves.
func (d *Daemon) noteStreaming() {
	d.board.Enter(health.Streaming)
	d.board.Clear(health.PartStream)
}

// repeatConditions logs again what needs a person, until ctx ends.
func (d *Daemon) repeatConditions(ctx context.Context) error {
	d.board.Repeat(ctx)
	return ctx.Err()
}
