package health

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The parts that raise conditions. Others may have names of their own.
const (
	PartStream      = "stream"      // connection, slot, publication
	PartDecoding    = "decoding"    // of transactions by the server
	PartRecording   = "recording"   // outcomes, parked rows and progress
	PartRights      = "rights"      // tables, functions and rights that the relay needs
	PartRouting     = "routing"     // subscriptions that the stream shows to be changed
	PartListening   = "listening"   // notifications and requests
	PartLoading     = "loading"     // parked deliveries that are due
	PartBackfill    = "backfill"    // rows from before the slot
	PartMarkers     = "markers"     // sending them
	PartAudit       = "audit"       // comparing the table with what came
	PartReplay      = "replay"      // reading rows of the table once more
	PartBudget      = "wal_budget"  // what the slot holds
	PartBacklog     = "backlog"     // what waits in tables
	PartPublication = "publication" // looking at it, and repairing it
	PartSource      = "source"      // shape and rights of the outbox table
	PartQuarantine  = "quarantine"  // rows that became no events
	PartPartitions  = "partitions"  // making them ahead, and dropping those that are old
	PartSettings    = "settings"    // the configuration and its files
)

// Report is a Condition as a Board shows it.
type Report struct {
	Part string `json:"part"`
	Condition
	Since time.Time `json:"since"` // when the part came into this state
}

// Board holds one Condition for each part of a relay that has one, and the stage that the relay is in: starting, standing
// by, streaming or draining. The worst decides what the relay is said to be in.
//
// A condition is logged when it is raised, when its sentence changes, at most once for each sentence within the repeat
// interval, and again after each such interval while it lasts and needs a person.
type Board struct {
	log    *slog.Logger
	gauge  *prometheus.GaugeVec
	repeat time.Duration
	now    func() time.Time

	mu    sync.Mutex
	stage Report // its Part is empty
	parts map[string]*part
	worst Report // as it was last told
}

// part is a Report with what was logged of it.
type part struct {
	Report
	told map[string]time.Time // sentences, and when each was logged last
}

// NewBoard returns a Board of a relay that is starting. repeat is how often a condition that needs a person is logged.
func NewBoard(reg prometheus.Registerer, log *slog.Logger, repeat time.Duration) *Board {
	b := &Board{log: log, repeat: repeat, now: time.Now, parts: make(map[string]*part),
		gauge: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "relay_state", Help: "1 for the state that the daemon is in."}, []string{"state"})}
	reg.MustRegister(b.gauge)
	for _, s := range order {
		b.gauge.WithLabelValues(string(s)).Set(0)
	}
	b.Enter(Starting)
	return b
}

// Enter notes the stage of the relay: Starting, Standby, Streaming or Draining.
func (b *Board) Enter(stage State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stage.State == stage {
		return
	}
	b.stage = Report{Condition: Condition{State: stage}, Since: b.now()}
	b.tell("")
}

// Raise notes the condition of a part, in place of the one it had. A condition in the state Streaming is a remark: it is
// shown, and the relay stays ready.
func (b *Board) Raise(name string, c Condition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	p := b.parts[name]
	if p == nil {
		p = &part{Report: Report{Part: name}, told: make(map[string]time.Time)}
		b.parts[name] = p
	}
	if p.State != c.State {
		p.Since = now
		clear(p.told)
	}
	p.Condition = c
	b.tell(name)
}

// Clear notes that a part works.
func (b *Board) Clear(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear(name)
}

// ClearAll notes that all parts but these are no more, because a leadership has ended.
func (b *Board) ClearAll(except ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.parts {
		if !slices.Contains(except, name) {
			b.clear(name)
		}
	}
}

func (b *Board) clear(name string) {
	p := b.parts[name]
	if p == nil {
		return
	}
	delete(b.parts, name)
	if p.State != Streaming {
		b.log.Info("condition cleared", "part", name, "state", string(p.State), "after", b.now().Sub(p.Since).Round(time.Second).String())
	}
	b.tell("")
}

// decides returns the worst report. mu is held.
func (b *Board) decides() Report {
	worst := b.stage
	for _, p := range b.parts {
		if rank(p.State) > rank(worst.State) || worst.Part != "" && compare(p.Report, worst) < 0 {
			worst = p.Report
		}
	}
	return worst
}

// tell brings gauge and log up to date after a change of a part, "" for none. mu is held.
func (b *Board) tell(changed string) {
	worst := b.decides()
	turned := worst.State != b.worst.State
	if turned {
		if b.worst.State != "" {
			b.gauge.WithLabelValues(string(b.worst.State)).Set(0)
		}
		b.gauge.WithLabelValues(string(worst.State)).Set(1)
	}
	b.worst = worst
	switch p := b.parts[changed]; {
	case p != nil && worst.Part == changed && turned:
		b.write(p, "state changed")
	case p != nil && (p.State.NeedsPerson() || len(p.told) == 0) && b.due(p):
		b.write(p, "condition raised")
	case p == nil && turned:
		level := slog.LevelInfo
		if !worst.State.Normal() {
			level = slog.LevelWarn
		}
		b.log.Log(context.Background(), level, "state changed", attributes(worst)...)
	}
}

// due reports whether the sentence of a part was not logged within the repeat interval.
func (b *Board) due(p *part) bool {
	at, told := p.told[p.Sentence]
	return !told || b.now().Sub(at) >= b.repeat
}

// mostSentences bounds what is remembered of a condition whose sentence is never the same.
const mostSentences = 16

func (b *Board) write(p *part, event string) {
	if len(p.told) >= mostSentences {
		return // it changes all the time, and Repeat goes on
	}
	p.told[p.Sentence] = b.now()
	level := slog.LevelWarn
	if p.State.Normal() {
		level = slog.LevelInfo
	}
	b.log.Log(context.Background(), level, event, attributes(p.Report)...)
}

func attributes(r Report) []any {
	attrs := []any{"state", string(r.State), "detail", r.Sentence}
	if r.Part != "" {
		attrs = append(attrs, "part", r.Part)
	}
	if r.Remedy != "" {
		attrs = append(attrs, "hint", r.Remedy)
	}
	return attrs
}

// Repeat logs again what needs a person, until ctx ends.
func (b *Board) Repeat(ctx context.Context) {
	tick := time.NewTicker(max(b.repeat/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.repeatDue()
		}
	}
}

func (b *Board) repeatDue() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range b.names() {
		p := b.parts[name]
		if !p.State.NeedsPerson() {
			continue
		}
		last := p.Since
		for _, at := range p.told {
			last = later(last, at)
		}
		if now := b.now(); now.Sub(last) >= b.repeat {
			clear(p.told)
			p.told[p.Sentence] = now
			b.log.Warn("condition persists", append(attributes(p.Report), "since", p.Since.UTC().Format(time.RFC3339))...)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// names are the parts with a condition, in order. mu is held.
func (b *Board) names() []string {
	list := make([]string, 0, len(b.parts))
	for name := range b.parts {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// Worst is what decides: a part's report, or the stage when no part is worse.
func (b *Board) Worst() Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.decides()
}

// Part returns the condition of a part, and whether it has one.
func (b *Board) Part(name string) (Condition, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.parts[name]; p != nil {
		return p.Condition, true
	}
	return Condition{}, false
}

// Reports are the conditions of all parts that have one, the worst first.
func (b *Board) Reports() []Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]Report, 0, len(b.parts))
	for _, name := range b.names() {
		list = append(list, b.parts[name].Report)
	}
	slices.SortFunc(list, compare)
	return list
}

// compare orders reports: the worst first, and of equals what names every missing right, then by name.
func compare(a, b Report) int {
	return cmp.Or(rank(b.State)-rank(a.State), first(a.Part == PartRights, b.Part == PartRights), strings.Compare(a.Part, b.Part))
}

// first puts what is so before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
