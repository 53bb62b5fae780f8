package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/test/ledger/history"
)

// actions are all that the nemesis can do, by name.
func actions() map[string]action {
	return map[string]action{
		"kill":             {do: kill, waits: true},
		"terminate":        {do: terminate, waits: true},
		"freeze":           {do: freeze, waits: true},
		"standby":          {do: standby, waits: true},
		"crash":            {do: crash, waits: true},
		"fast-restart":     {do: fastRestart, waits: true},
		"end-walsender":    {do: endWalsender, waits: true},
		"end-backends":     {do: endBackends, waits: true},
		"take-slots":       {do: takeSlots, waits: true},
		"checkpoint":       {do: checkpoint},
		"open-transaction": {do: openTransaction, lasts: true},
		"cut-stall":        {do: cutStall, waits: true},
		"cut-reset":        {do: cutReset, waits: true},
		"outage":           {do: outage, lasts: true},
		history.HalfDead:   {do: halfDead, waits: true},
		"switch":           {do: switchOff, lasts: true},
		"subscribe":        {do: subscribe},
		"reload":           {do: reload},
		"alter":            {do: alter},
		"drop-slot":        {do: dropSlot, waits: true},
		"drop-publication": {do: dropPublication, waits: true},
		"unpublish":        {do: unpublish, waits: true},
		"advance-slot":     {do: advanceSlot, waits: true},
	}
}

// victim is the leader, or the first relay when none leads.
func (n *nemesis) victim(ctx context.Context, a *history.Action) *unit {
	u := n.r.leader(ctx)
	if u == nil {
		u = n.r.units[0]
	}
	a.Target = u.name
	return u
}

// mayChangeLeader says that a fault can end a term: when another relay waits, it may be the first to come back.
func (n *nemesis) mayChangeLeader() bool {
	return !slices.ContainsFunc(n.r.units, func(u *unit) bool { return !u.running() })
}

func kill(n *nemesis, ctx context.Context, a *history.Action) error {
	u := n.victim(ctx, a)
	a.Repeats = true
	if err := u.end(syscall.SIGKILL, a.Name, false); err != nil {
		return err
	}
	n.r.kills.Add(1)
	if n.random.IntN(3) == 0 {
		wait(ctx, n.between(0, 600*time.Millisecond))
	}
	u.start(n.point()...)
	return nil
}

// point is the environment that makes a relay die at a fault point, for some of the relays of a profile that has any.
func (n *nemesis) point() []string {
	points := n.r.opts.Profile.Points
	if len(points) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("RELAY_FAULTPOINTS=%s=exit@%d", points[n.random.IntN(len(points))], 1+n.random.IntN(30))}
}

func terminate(n *nemesis, ctx context.Context, a *history.Action) error {
	u := n.victim(ctx, a)
	if err := u.end(syscall.SIGTERM, a.Name, false); err != nil {
		return err
	}
	u.start()
	return nil
}

// freeze stops the leader for longer than another relay needs to take over, and lets it go on.
func freeze(n *nemesis, ctx context.Context, a *history.Action) error {
	u := n.victim(ctx, a)
	a.Repeats, a.Stalls = true, true
	u.signal(syscall.SIGSTOP)
	d := n.between(200*time.Millisecond, 2*time.Second)
	if n.mayChangeLeader() && n.random.IntN(4) > 0 {
		d = senderTimeout + n.between(2*time.Second, 5*time.Second)
	}
	a.Detail = d.Round(time.Millisecond).String()
	time.Sleep(d)
	u.signal(syscall.SIGCONT)
	return nil
}

// standby starts a second relay, or stops it.
func standby(n *nemesis, ctx context.Context, a *history.Action) error {
	for _, u := range n.r.units {
		if !u.running() {
			a.Target, a.Detail = u.name, "starts"
			u.start()
			return nil
		}
	}
	u := n.r.units[n.random.IntN(len(n.r.units))]
	a.Target, a.Detail = u.name, "stops"
	return u.end(syscall.SIGTERM, a.Name, false)
}

func crash(n *nemesis, ctx context.Context, a *history.Action) error {
	a.Rewinds, a.Stalls, a.Repeats = true, true, n.mayChangeLeader()
	return n.restart(ctx, pgcluster.Immediate)
}

func fastRestart(n *nemesis, ctx context.Context, a *history.Action) error {
	a.Rewinds, a.Stalls, a.Repeats = true, true, n.mayChangeLeader()
	began := time.Now()
	err := n.restart(ctx, pgcluster.Fast)
	a.Detail = "took " + time.Since(began).Round(time.Millisecond).String()
	return err
}

func (n *nemesis) restart(ctx context.Context, mode pgcluster.StopMode) error {
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := n.r.cluster.Stop(stopping, mode); err != nil {
		_ = n.r.cluster.Stop(context.WithoutCancel(ctx), pgcluster.Immediate)
		_ = n.r.cluster.Start(context.WithoutCancel(ctx))
		return fmt.Errorf("PostgreSQL did not stop (%s): %w", mode, err)
	}
	n.r.pool.Reset()
	wait(ctx, n.between(0, time.Second))
	return n.r.cluster.Start(context.WithoutCancel(ctx))
}

func endWalsender(n *nemesis, ctx context.Context, a *history.Action) error {
	a.Repeats = n.mayChangeLeader()
	_, err := n.r.pool.Exec(ctx, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL")
	return n.unlessEnding(ctx, err)
}

func endBackends(n *nemesis, ctx context.Context, a *history.Action) error {
	a.Repeats, a.Stalls = n.mayChangeLeader(), true
	_, err := n.r.pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender')`)
	return n.unlessEnding(ctx, err)
}

// takeSlots lets other sessions take every connection slot that there is, those of the relays too, for a while. The
// reserved slots would let this relay in, which is a superuser here, so they are taken as well.
func takeSlots(n *nemesis, ctx context.Context, a *history.Action) error {
	a.Repeats, a.Stalls = n.mayChangeLeader(), true
	d := n.between(2*time.Second, 6*time.Second)
	whole := context.WithoutCancel(ctx)
	mine, err := pgx.Connect(whole, n.r.url)
	if err != nil {
		return fmt.Errorf("take the connection slots: %w", err)
	}
	others := []*pgx.Conn{mine}
	defer func() {
		for _, c := range others {
			_ = c.Close(whole)
		}
	}()
	const relays = "FROM pg_stat_activity WHERE application_name LIKE 'relay%' AND backend_type = 'client backend'"
	ended := 0
	for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; {
		c, err := pgx.Connect(whole, n.r.url)
		if err == nil {
			others = append(others, c)
			continue
		}
		// Whoever is first takes what a session of the relay leaves.
		var some int
		if err := mine.QueryRow(whole, "SELECT count(pg_terminate_backend(pid)) "+relays).Scan(&some); err != nil {
			return fmt.Errorf("take the connection slots: %w", err)
		}
		if ended += some; some == 0 {
			wait(ctx, 50*time.Millisecond)
		}
	}
	a.Detail = fmt.Sprintf("%d taken, %d sessions of relays ended, for %s", len(others), ended, d.Round(time.Millisecond))
	return nil
}

// unlessEnding forgets an error that the end of the run explains.
func (n *nemesis) unlessEnding(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func checkpoint(n *nemesis, ctx context.Context, _ *history.Action) error {
	_, err := n.r.pool.Exec(ctx, "CHECKPOINT")
	return n.unlessEnding(ctx, err)
}

// openTransaction writes in a transaction and leaves it open: the slot's position is not saved meanwhile.
func openTransaction(n *nemesis, ctx context.Context, a *history.Action) error {
	d := n.between(2*time.Second, 15*time.Second)
	a.Detail = d.Round(time.Millisecond).String()
	conn, err := pgx.Connect(ctx, n.r.url)
	if err != nil {
		return nil // PostgreSQL is being hurt otherwise
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, _ = conn.Exec(ctx, "BEGIN")
	_, _ = conn.Exec(ctx, "INSERT INTO ledger.other VALUES (1)")
	wait(ctx, d)
	return nil
}

// cutStall pulls the cable between a relay and PostgreSQL: nothing is refused, and nothing comes through.
func cutStall(n *nemesis, ctx context.Context, a *history.Action) error {
	u := n.victim(ctx, a)
	a.Repeats, a.Stalls = n.mayChangeLeader(), true
	d := n.between(300*time.Millisecond, 10*time.Second)
	a.Detail = d.Round(time.Millisecond).String()
	u.proxy.Stall()
	wait(ctx, d)
	u.proxy.Heal()
	return nil
}

func cutReset(n *nemesis, ctx context.Context, a *history.Action) error {
	u := n.victim(ctx, a)
	a.Repeats, a.Stalls = n.mayChangeLeader(), true
	switch n.random.IntN(3) {
	case 0:
		a.Detail = "dropped"
		u.proxy.Cut(false)
	case 1:
		a.Detail = "reset"
		u.proxy.Cut(true)
	default:
		d := n.between(100*time.Millisecond, 2*time.Second)
		a.Detail = "refused for " + d.Round(time.Millisecond).String()
		u.proxy.Refuse()
		wait(ctx, d)
		u.proxy.Heal()
	}
	return nil
}

// moods are what an endpoint may be in during an outage.
var moods = []mood{
	{name: "500", status: 500, share: 1}, {name: "half 503", status: 503, share: 0.5}, {name: "429", status: 429, share: 0.7, after: time.Second},
	{name: "404", status: 404, share: 1}, {name: "hangs", status: history.AnswerHang, share: 1},
	{name: "resets", status: history.AnswerReset, share: 1}, {name: "refuses", status: history.AnswerReset, share: 0.8, before: true},
	{name: "slow", status: 200, share: 1, delay: 150 * time.Millisecond}, {name: "very slow", status: 200, share: 0.3, delay: 1300 * time.Millisecond},
}

// endpoints are those that get something and stay.
var endpoints = []string{"acme-all", "acme-confirmed", "acme-unordered", "globex-all", "globex-flaky", "mueller-all"}

// outage puts an endpoint into a mood for a while.
func outage(n *nemesis, ctx context.Context, a *history.Action) error {
	name, m := endpoints[n.random.IntN(len(endpoints))], moods[n.random.IntN(len(moods))]
	d := n.between(300*time.Millisecond, 6*time.Second)
	a.Target, a.Detail = name, m.name+" for "+d.Round(time.Millisecond).String()
	if !n.occupy(name) {
		a.Detail = "in a mood already"
		return nil
	}
	defer n.leave(name)
	n.r.recv.set(name, m)
	wait(ctx, d)
	n.r.recv.set(name, usual(name))
	return nil
}

// usual is the mood of an endpoint that nothing is done to.
func usual(name string) mood {
	if name == "globex-flaky" {
		return flaky
	}
	return healthy
}

// halfDead lets half of the endpoints take nothing for a while, one that fails, one that hangs and one that refuses. No
// other fault begins meanwhile, so what the slot holds then is owed to them.
func halfDead(n *nemesis, ctx context.Context, a *history.Action) error {
	d := n.between(6*time.Second, 12*time.Second)
	dead := []mood{{name: "500", status: 500, share: 1}, {name: "hangs", status: history.AnswerHang, share: 1},
		{name: "refuses", status: history.AnswerReset, share: 1, before: true}}
	var names []string
	for _, i := range n.random.Perm(len(endpoints)) {
		if name := endpoints[i]; len(names) < len(dead) && n.occupy(name) {
			defer n.leave(name)
			n.r.recv.set(name, dead[len(names)])
			names = append(names, name)
		}
	}
	a.Target, a.Detail = strings.Join(names, " "), d.Round(time.Millisecond).String()
	wait(ctx, d)
	for _, name := range names {
		n.r.recv.set(name, usual(name))
	}
	return nil
}

func (n *nemesis) occupy(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy[name] {
		return false
	}
	n.busy[name] = true
	return true
}

func (n *nemesis) leave(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.busy[name] = false
}
