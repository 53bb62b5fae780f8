package main

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// readyLimit is how long it may take until a relay is ready again. The figures tell how long it took.
const readyLimit = 60 * time.Second

// nemesis hurts the relay, PostgreSQL, the network and the receivers, one thing after another, with quiet gaps. What it
// does, and in which order, follows from the seed.
type nemesis struct {
	r      *runner
	random *rand.Rand
	*marks
}

// marks are what the actions of one run know of each other.
type marks struct {
	slow       sync.WaitGroup // what lasts and is not waited for
	mu         sync.Mutex
	busy       map[string]bool // endpoints that are in a mood, guarded by mu
	generation int             // of the configuration
	made       int             // subscriptions
	columns    int             // added to the outbox
}

// action is one way of hurting. It fills in what it did, and undoes it before it returns or, when it lasts, by
// itself; then it says so by the function that it is given.
type action struct {
	do    func(n *nemesis, ctx context.Context, a *history.Action) error
	waits bool // for a relay to be ready again
	lasts bool // runs beside the next ones
}

func (n *nemesis) run(ctx context.Context) {
	for n.pause(ctx) {
		name := n.choose(n.names())
		if name == "" {
			continue
		}
		n.act(ctx, name)
	}
	n.slow.Wait()
	n.heal()
}

// pause waits between two actions and tells whether there is time for another.
func (n *nemesis) pause(ctx context.Context) bool {
	wait := time.Duration((0.3 + 1.4*n.random.Float64()) * float64(n.r.opts.Profile.Gap))
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// names are the actions of the profile, in an order that is always the same.
func (n *nemesis) names() []string { return slices.Sorted(maps.Keys(n.r.opts.Profile.Weights)) }

func (n *nemesis) choose(names []string) string {
	total := 0
	for _, name := range names {
		total += n.r.opts.Profile.Weights[name]
	}
	if total == 0 {
		return ""
	}
	at := n.random.IntN(total)
	for _, name := range names {
		if at -= n.r.opts.Profile.Weights[name]; at < 0 {
			return name
		}
	}
	return ""
}

// act carries out one action and writes it down.
func (n *nemesis) act(ctx context.Context, name string) {
	how := actions()[name]
	a := &history.Action{Name: name, Began: history.Now()}
	finish := func(err error) {
		a.Ended = history.Now()
		if err != nil {
			a.Fault = err.Error()
		}
		if how.waits {
			// Not cut off by the end of writing: what was hurt must come back.
			if n.r.awaitReady(context.WithoutCancel(ctx), readyLimit) {
				a.Ready = history.Now()
			} else {
				a.Late = true
			}
		}
		n.r.opts.Log("%s %s %s %s", a.Began, a.Name, a.Target, a.Detail)
		n.r.note(n.r.actions.Add(a))
	}
	if how.lasts {
		// It draws its numbers now, so that the order of draws does not depend on time.
		own := &nemesis{r: n.r, random: rand.New(rand.NewPCG(n.random.Uint64(), 0)), marks: n.marks}
		n.slow.Go(func() { finish(how.do(own, ctx, a)) })
		return
	}
	finish(how.do(n, ctx, a))
}

// between draws a time.
func (n *nemesis) between(least, most time.Duration) time.Duration {
	return least + time.Duration(n.random.Int64N(int64(most-least)))
}

// wait lasts for d, or until the run ends its writing.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// heal makes everything whole, so that the run can drain.
func (n *nemesis) heal() {
	for _, u := range n.r.units {
		u.proxy.Heal()
	}
	n.r.units[0].start()
}
