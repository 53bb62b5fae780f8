package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/deliver"
)

// waitFlag adds --wait to a command that leaves a request for the daemon.
func waitFlag(c *cobra.Command, to *time.Duration) {
	durationFlag(c.Flags(), to, "wait", 5*time.Second, "how long to wait for the running relay to do it")
}

// asked are requests to the leader.
type asked struct {
	kind    string
	targets []string
	wait    time.Duration // for the leader to carry them out
	could   string        // what could not be done with a target that is refused: "tried again"
}

// answer is what became of one request.
type answer struct {
	ID         string `json:"id"`
	CarriedOut bool   `json:"carried_out"`
	Result     string `json:"result"`
	refused    bool   // carried out, and nothing could be done
}

// askFor leaves the requests, waits for the leader to carry them out, and prints
// what became of each. became looks at a target whose request was carried out.
func (a asked) askFor(ctx context.Context, cmd *cobra.Command, db *pgxpool.Pool, output string,
	became func(i int) (result string, refused bool, err error)) error {
	waiting, err := ask(ctx, cmd, db, a.kind, a.targets, a.wait)
	if err != nil {
		return err
	}
	refused := 0
	answers, rows := make([]answer, len(a.targets)), make([][]string, len(a.targets))
	for i, target := range a.targets {
		r := answer{ID: target, CarriedOut: !waiting[target], Result: "asked for"}
		if r.CarriedOut {
			if r.Result, r.refused, err = became(i); err != nil {
				return err
			}
		}
		if r.refused {
			refused++
		}
		answers[i], rows[i] = r, []string{r.ID, r.Result}
	}
	if output == formJSON {
		err = printJSON(cmd.OutOrStdout(), items(answers))
	} else {
		err = table(cmd.OutOrStdout(), "ID RESULT", rows)
	}
	if err == nil && refused > 0 {
		err = fmt.Errorf("%d of %d could not be %s", refused, len(answers), a.could)
	}
	return err
}

// ask leaves requests, waits for the leader to carry them out, and returns the
// targets of those that still wait.
func ask(ctx context.Context, cmd *cobra.Command, db *pgxpool.Pool, kind string, targets []string, wait time.Duration) (map[string]bool, error) {
	if len(targets) == 0 {
		return nil, nil
	}
	numbers, err := deliver.Ask(ctx, db, kind, targets)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	left, err := deliver.Await(limited, db, slices.Collect(maps.Values(numbers)))
	if err != nil {
		return nil, err
	}
	waiting := make(map[string]bool, len(left))
	for target, id := range numbers {
		if slices.Contains(left, id) {
			waiting[target] = true
		}
	}
	if len(waiting) > 0 {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d noted; no relay has carried that out yet, the next one that leads will\n", len(waiting))
	}
	return waiting, ctx.Err()
}
