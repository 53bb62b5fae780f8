package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/egress"
)

// report is what `relay status` says.
type report struct {
	Daemon      *daemon.Status `json:"daemon"` // null: none was reached
	Unreachable string         `json:"unreachable,omitempty"`
	Slot        slotReport     `json:"slot"`
	Parked      []parkedTenant `json:"parked"`
	Quarantined int            `json:"quarantined"`
}

type slotReport struct {
	Name      string `json:"name"`
	Exists    bool   `json:"exists"`
	Active    bool   `json:"active"`
	WALStatus string `json:"wal_status"`
	Retained  int64  `json:"retained_bytes"`
}

type parkedTenant struct {
	Tenant string `json:"tenant_id"`
	Count  int    `json:"deliveries"`
}

func newStatus() *cobra.Command {
	var output string
	var watch bool
	c := &cobra.Command{
		Use: "status", Short: "Tell how the relay, its slot and what waits are", Args: cobra.NoArgs,
		Long: "Ask the running relay at http.listen (or http.ops_listen), and the database. The exit code is 4 when no relay\n" +
			"answers, or the one that does is not ready.",
		Example: "  relay status\n  relay status -o json\n  relay status --watch",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				for {
					r, err := readReport(ctx, cfg, db)
					if err != nil {
						if ctx.Err() != nil && watch {
							return nil
						}
						return err
					}
					if watch {
						_, _ = fmt.Fprint(cmd.OutOrStdout(), "\x1b[H\x1b[2J")
					}
					if err := r.print(cmd.OutOrStdout(), output); err != nil {
						return err
					}
					if !watch {
						return r.verdict()
					}
					select {
					case <-ctx.Done():
						return nil
					case <-time.After(time.Second):
					}
				}
			})
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, "show it again each second, until Ctrl-C")
	addOutput(c, &output)
	return c
}

func readReport(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) (*report, error) {
	r := &report{Parked: []parkedTenant{}, Slot: slotReport{Name: cfg.CDC.Slot}}
	var err error
	if r.Daemon, err = askDaemon(ctx, cfg); err != nil {
		r.Unreachable = err.Error()
	}
	slot, err := cdc.InspectSlot(ctx, db, cfg.CDC.Slot)
	if err != nil {
		return nil, err
	}
	r.Slot.Exists, r.Slot.Active, r.Slot.WALStatus, r.Slot.Retained = slot.Exists, slot.Active, slot.WALStatus, slot.RetainedBytes
	rows, err := db.Query(ctx, `SELECT b.tenant_id, count(*) FROM relay.parked p JOIN relay.bodies b USING (commit_lsn, event_id)
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10`)
	if err != nil {
		return nil, fmt.Errorf("count parked deliveries: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var t parkedTenant
		if err := rows.Scan(&t.Tenant, &t.Count); err != nil {
			return nil, fmt.Errorf("count parked deliveries: %w", err)
		}
		r.Parked = append(r.Parked, t)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("count parked deliveries: %w", err)
	}
	if err := db.QueryRow(ctx, "SELECT count(*) FROM relay.quarantine").Scan(&r.Quarantined); err != nil {
		return nil, fmt.Errorf("count quarantined rows: %w", err)
	}
	return r, nil
}

// askDaemon reads /status. It goes to the relay's own address from the
// configuration, and nowhere else.
func askDaemon(ctx context.Context, cfg *config.Config) (*daemon.Status, error) {
	addr := cfg.HTTP.Listen
	if cfg.HTTP.OpsListen != "" {
		addr = cfg.HTTP.OpsListen
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("http.listen %s: %w", addr, err)
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	addr = net.JoinHostPort(host, port)
	policy, err := egress.New(egress.Options{Allow: []string{host}, Timeout: 3 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("http.listen %s: %w", addr, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := policy.Client(egress.TransportOptions{}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("no relay answers at %s", addr)
	}
	defer func() { _ = resp.Body.Close() }()
	var s daemon.Status
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&s); err != nil {
		return nil, fmt.Errorf("what answers at %s is no relay", addr)
	}
	return &s, nil
}

func (r *report) print(w io.Writer, output string) error {
	if output == formJSON {
		return printJSON(w, r)
	}
	pairs := [][2]string{}
	if d := r.Daemon; d != nil {
		ready := "yes"
		if !d.Ready {
			ready = "no: " + d.NotReady
		}
		pairs = append(pairs, [2]string{"state", string(d.State) + " since " + stamp(&d.Since)}, [2]string{"ready", ready},
			[2]string{"recorded", orNone(d.Recorded)}, [2]string{"confirmed", orNone(d.Confirmed)},
			[2]string{"in flight", strconv.Itoa(d.InFlight)}, [2]string{"in window", strconv.Itoa(d.Window)})
	} else {
		pairs = append(pairs, [2]string{"state", r.Unreachable})
	}
	slot := "missing"
	if r.Slot.Exists {
		slot = fmt.Sprintf("%s, %d bytes of WAL kept", r.Slot.WALStatus, r.Slot.Retained)
		if !r.Slot.Active {
			slot += ", nobody streams from it"
		}
	}
	pairs = append(pairs, [2]string{"slot " + r.Slot.Name, slot})
	for _, t := range r.Parked {
		pairs = append(pairs, [2]string{"parked " + printable(t.Tenant), strconv.Itoa(t.Count)})
	}
	pairs = append(pairs, [2]string{"quarantined", strconv.Itoa(r.Quarantined)})
	return text(w, pairs...)
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (r *report) verdict() error {
	switch {
	case r.Daemon == nil:
		return unhealthyError{errors.New(r.Unreachable)}
	case !r.Daemon.Ready:
		return unhealthyError{fmt.Errorf("the relay is not ready: %s", r.Daemon.NotReady)}
	}
	return nil
}
