package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/progress"
	"github.com/outbox-relay/relay/internal/secret"
)

// statusPatience bounds what one look at the database may take.
const statusPatience = 10 * time.Second

// report is what `relay status` says.
type report struct {
	Daemon      *daemon.Status        `json:"daemon"` // null: none was reached
	Unreachable string                `json:"unreachable,omitempty"`
	Database    string                `json:"database_error,omitempty"` // what follows is unknown then
	Slot        slotReport            `json:"slot"`
	Version     string                `json:"version"` // of this command; the daemon has its own
	Overview    *deliver.Overview     `json:"deliveries"`
	Parked      []deliver.TenantCount `json:"parked"` // of the ten tenants with most
	Quarantined int                   `json:"quarantined"`
	ProvedAt    *time.Time            `json:"proved_at"` // when the last marker was found in order; null: never
	Incidents   []progress.Incident   `json:"incidents"` // those that go on, and the latest others, three in all
}

type slotReport struct {
	Name      string `json:"name"`
	Exists    bool   `json:"exists"`
	Active    bool   `json:"active"`
	WALStatus string `json:"wal_status"`
	Retained  int64  `json:"retained_bytes"`
}

func newStatus() *cobra.Command {
	var output string
	var watch bool
	var tokenFile string
	c := &cobra.Command{
		Use: "status", Short: "Tell how the relay, its slot and what waits are", Args: cobra.NoArgs,
		Long: "Ask the running relay at http.listen (or http.ops_listen), and the database. The exit code is 4 when no relay\n" +
			"answers, when the one that does is not ready, or when the database does not answer.",
		Example: "  relay status\n  relay status -o json\n  relay status --watch",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, "database.url")
			if err != nil {
				return err
			}
			db, err := openDatabase(cmd, cfg)
			if err != nil {
				return err
			}
			defer db.Close()
			ask := asker{cfg: cfg}
			if tokenFile != "" {
				b, err := os.ReadFile(tokenFile) // #nosec G304 -- whoever runs the command names the file
				if err != nil {
					return fmt.Errorf("read token: %w", err)
				}
				ask.token = secret.New(strings.TrimSpace(string(b)))
			}
			if watch {
				return watchStatus(cmd, ask, db, output)
			}
			r := readReport(cmd.Context(), ask, db)
			if output == formJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = r.print(cmd.OutOrStdout())
			}
			if err != nil {
				return err
			}
			return r.verdict()
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, "show it again each second, until Ctrl-C; with -o json a line each")
	c.Flags().StringVar(&tokenFile, "token-file", "", "file with an operator's token, where the relay wants one: http.listen is no loopback address, and http.ops_listen not set")
	addOutput(c, &output)
	return c
}

// watchStatus prints until the command is interrupted. Only a terminal is cleared.
func watchStatus(cmd *cobra.Command, ask asker, db *pgxpool.Pool, output string) error {
	w, tick := cmd.OutOrStdout(), time.NewTicker(time.Second)
	defer tick.Stop()
	f, isFile := w.(*os.File)
	terminal := isFile && isTerminal(f)
	for first := true; ; first = false {
		r := readReport(cmd.Context(), ask, db)
		if cmd.Context().Err() != nil {
			return nil
		}
		var err error
		switch {
		case output == formJSON:
			err = json.NewEncoder(w).Encode(r)
		case terminal:
			_, _ = fmt.Fprint(w, "\x1b[H\x1b[2J") // to the corner, and clear
			err = r.print(w)
		default:
			if !first {
				_, _ = fmt.Fprintln(w)
			}
			err = r.print(w)
		}
		if err != nil {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-tick.C:
		}
	}
}

func readReport(ctx context.Context, ask asker, db *pgxpool.Pool) *report {
	r := &report{Version: version, Parked: []deliver.TenantCount{}, Incidents: []progress.Incident{}, Slot: slotReport{Name: ask.cfg.CDC.Slot}}
	var err error
	if r.Daemon, err = ask.status(ctx); err != nil {
		r.Unreachable = err.Error()
	}
	if err := r.readDatabase(ctx, db); err != nil {
		r.Database = explainWith(daemon.Facts(ask.cfg), err)
	}
	return r
}

func (r *report) readDatabase(ctx context.Context, db *pgxpool.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	if err := checkSchema(ctx, db); err != nil {
		return err
	}
	slot, err := cdc.InspectSlot(ctx, db, r.Slot.Name)
	if err != nil {
		return err
	}
	r.Slot.Exists, r.Slot.Active, r.Slot.WALStatus, r.Slot.Retained = slot.Exists, slot.Active, slot.WALStatus, slot.RetainedBytes
	if r.Overview, err = (deliver.Records{DB: db}).Overview(ctx, 5); err != nil {
		return err
	}
	parked, err := (deliver.Records{DB: db}).ParkedByTenant(ctx, 10)
	if err != nil {
		return err
	}
	r.Parked = append(r.Parked, parked...)
	if r.Quarantined, err = (outbox.Quarantine{DB: db}).Count(ctx); err != nil {
		return err
	}
	if r.ProvedAt, err = progress.ProvedAt(ctx, db, r.Slot.Name); err != nil {
		return err
	}
	incidents, err := progress.Incidents(ctx, db, r.Slot.Name, 3)
	r.Incidents = append(r.Incidents, incidents...)
	return err
}

// asker asks the running relay.
type asker struct {
	cfg   *config.Config
	token secret.Secret // of an operator; empty: none is sent
}

// status reads /status. It goes to the relay's own address from the
// configuration, and nowhere else.
func (a asker) status(ctx context.Context) (*daemon.Status, error) {
	addr := a.cfg.HTTP.Listen
	switch {
	case a.cfg.HTTP.OpsListen != "":
		addr = a.cfg.HTTP.OpsListen
	case a.cfg.HTTP.TLSCert != "":
		return nil, fmt.Errorf("the relay speaks TLS at %s: set http.ops_listen to a loopback address for this command", addr)
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
	if !a.token.IsZero() {
		req.Header.Set("Authorization", "Bearer "+a.token.Reveal())
	}
	resp, err := policy.Client(egress.TransportOptions{}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("no relay answers at %s", addr)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		return nil, fmt.Errorf("the relay at %s wants an operator's token: use --token-file, or set http.ops_listen", addr)
	}
	var s daemon.Status
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&s); err != nil {
		return nil, fmt.Errorf("what answers at %s is no relay", addr)
	}
	return &s, nil
}

func (r *report) print(w io.Writer) error {
	pairs := [][2]string{}
	if d := r.Daemon; d != nil {
		ready := "yes"
		if !d.Ready {
			ready = "no: " + printable(d.NotReady)
		}
		pairs = append(pairs, [2]string{"state", string(d.State) + " since " + stamp(&d.Since)}, [2]string{"ready", ready})
		for _, c := range d.Conditions {
			pairs = append(pairs, [2]string{"condition " + printable(c.Part), string(c.State) + " since " + stamp(&c.Since)},
				[2]string{"  what", orDash(&c.Sentence)}, [2]string{"  hint", orDash(&c.Remedy)})
		}
		if len(d.NeedsRestart) > 0 {
			pairs = append(pairs, [2]string{"needs a restart", "the relay runs with other values than the configuration has of " + printable(strings.Join(d.NeedsRestart, ", "))})
		}
		pairs = append(pairs, [2]string{"version", orDash(&d.Version)}, [2]string{"recorded", orDash(&d.Recorded)}, [2]string{"confirmed", orDash(&d.Confirmed)},
			[2]string{"in flight", strconv.Itoa(d.InFlight)}, [2]string{"in window", strconv.Itoa(d.Window)})
	} else {
		pairs = append(pairs, [2]string{"state", r.Unreachable})
	}
	if r.Database != "" {
		first, _, _ := strings.Cut(r.Database, "\n")
		return text(w, append(pairs, [2]string{"database", printable(first)})...)
	}
	slot := "missing"
	if r.Slot.Exists {
		slot = fmt.Sprintf("%s, %s of WAL kept", r.Slot.WALStatus, bytesText(r.Slot.Retained))
		if !r.Slot.Active {
			slot += ", nobody streams from it"
		}
	}
	pairs = append(pairs, [2]string{"slot " + r.Slot.Name, slot})
	if r.Daemon != nil && r.Daemon.WAL != nil {
		pairs = append(pairs, [2]string{"WAL budget", walText(r.Daemon.WAL)})
	}
	pairs = append(pairs, [2]string{"proved up to", stamp(r.ProvedAt)})
	for _, t := range r.Parked {
		pairs = append(pairs, [2]string{"parked " + printable(t.TenantID), strconv.Itoa(t.Count)})
	}
	pairs = append(pairs, [2]string{"quarantined", strconv.Itoa(r.Quarantined)})
	if o := r.Overview; o != nil {
		pairs = append(pairs, [2]string{"dead letters", fmt.Sprintf("%d, %d of them in the last 24 h", o.Dead, o.DeadToday)},
			[2]string{"endpoints", fmt.Sprintf("%d failing, %d disabled", o.Failing, o.Disabled)})
		for _, e := range o.Endpoints {
			line := fmt.Sprintf("%s since %s, tenant %s, %s", strings.ReplaceAll(e.State, "_", " "), stamp(&e.Since), printable(e.TenantID), printable(e.Host))
			if e.Reason != nil {
				line += ": " + printable(*e.Reason)
			}
			pairs = append(pairs, [2]string{"  " + e.SubscriptionID.String(), line})
		}
	}
	for _, i := range r.Incidents {
		line := fmt.Sprintf("%s since %s: %s", i.Kind, stamp(&i.BeganAt), printable(i.Detail))
		if i.EndedAt != nil { // what is over needs no words
			line = fmt.Sprintf("%s of %s, ended, %d rows sent", i.Kind, i.BeganAt.UTC().Format("2006-01-02 15:04"), i.RowsSent)
		}
		pairs = append(pairs, [2]string{"incident", line})
	}
	return text(w, pairs...)
}

// walText says what a slot holds, of what it may hold.
func walText(s *daemon.WALStatus) string {
	line := bytesText(s.Held) + " used, no limit"
	if s.Budget > 0 {
		line = fmt.Sprintf("%s of %s used (%.0f %%)", bytesText(s.Held), bytesText(s.Budget), 100*float64(s.Held)/float64(s.Budget))
	}
	if s.SecondsToLoss != nil {
		line += ", the slot may be lost in " + (time.Duration(*s.SecondsToLoss) * time.Second).String()
	}
	return line
}

// bytesText is a number of bytes as people read it.
func bytesText(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, unit := float64(n), 0
	for ; v >= 1024 && unit < len(units)-1; unit++ {
		v /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[unit])
}

func (r *report) verdict() error {
	switch {
	case r.Daemon == nil:
		return unhealthyError{fmt.Errorf("%s; start one with `relay run`, or look at http.listen", r.Unreachable)}
	case !r.Daemon.Ready:
		return unhealthyError{fmt.Errorf("the relay is not ready: %s", r.Daemon.NotReady)}
	case r.Database != "":
		return unhealthyError{errors.New(r.Database)}
	}
	return nil
}
