package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
)

// tailWindow is how many of the newest deliveries are watched: one of them that
// ends is printed, one that was committed before them is not.
const tailWindow = 1000

func newDeliveriesTail() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "tail", Short: "Print deliveries as they end, until Ctrl-C", Args: cobra.NoArgs,
		Long: "Print deliveries as they end, until Ctrl-C. With --status PENDING: failed attempts of those that wait.\n" +
			"The newest 1000 are watched; one that was committed long before them ends unseen. deliver.log decides which\n" +
			"ended deliveries have a record at all.",
		Example: "  relay deliveries tail --tenant acme\n  relay deliveries tail -o json | jq .event",
	}
	filter := filterFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := filter()
		if err != nil {
			return err
		}
		return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
			t := tail{records: deliver.Records{DB: db}, filter: f}
			err := t.run(ctx, func(d *deliver.Record) error {
				if output == formJSON {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(d)
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(deliveryRow(d), "  "))
				return err
			})
			if ctx.Err() != nil {
				return nil // Ctrl-C
			}
			return err
		})
	}
	addOutput(c, &output)
	return c
}

// tail looks at the newest deliveries again and again.
type tail struct {
	records deliver.Records
	filter  deliver.Filter
	floor   uuid.UUID            // oldest of the newest at the last look
	seen    map[uuid.UUID]string // their states
}

func (t *tail) run(ctx context.Context, show func(*deliver.Record) error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for first := true; ; first = false {
		list, err := t.look(ctx)
		if err != nil {
			return err
		}
		now := make(map[uuid.UUID]string, len(list))
		for i := range slices.Backward(list) {
			d := &list[i]
			state := fmt.Sprint(d.Status, d.Attempts)
			now[d.ID] = state
			wanted := d.Status != deliver.StatusPending || (t.filter.Status == deliver.StatusPending && d.Attempts > 0)
			if first || !wanted || t.seen[d.ID] == state {
				continue
			}
			if err := show(d); err != nil {
				return err
			}
		}
		t.seen = now
		if t.floor = uuid.Nil; len(list) >= tailWindow {
			t.floor = list[tailWindow-1].ID
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// look reads the newest deliveries, at least those above the floor.
func (t *tail) look(ctx context.Context) ([]deliver.Record, error) {
	var list []deliver.Record
	f := t.filter
	f.Limit = tailWindow
	for {
		page, err := t.records.List(ctx, f)
		if err != nil {
			return nil, err
		}
		if t.floor != uuid.Nil {
			// The page may reach below: what is there ended long ago.
			page = slices.DeleteFunc(page, func(d deliver.Record) bool { return string(d.ID[:]) < string(t.floor[:]) })
		}
		list = append(list, page...)
		if len(page) < tailWindow || t.seen == nil {
			return list, nil
		}
		f.Before = page[len(page)-1].ID
	}
}
