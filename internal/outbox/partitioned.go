package outbox

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// partitioned is a table partitioned by range of time, as the catalog has it. key is empty for any other table.
type partitioned struct {
	schema, name string
	key          string // column that decides
	defaultLeaf  string // the default partition, quoted with its schema, or empty
	partitions   []partition
}

type partition struct {
	schema, name string
	span
	ours bool // carries a name that partitionName gives
}

// span is a range of time, upper exclusive. What is unbounded in PostgreSQL reaches from beginningOfTime to endOfTime.
type span struct{ lower, upper time.Time }

// PostgreSQL's timestamps lie between these two.
var (
	beginningOfTime = time.Date(-5000, 1, 1, 0, 0, 0, 0, time.UTC)
	endOfTime       = time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC)
)

// gaps returns what of s no partition covers, in order.
func (t partitioned) gaps(s span) []span {
	left := []span{s}
	for _, part := range t.partitions {
		var next []span
		for _, l := range left {
			if !part.lower.Before(l.upper) || !part.upper.After(l.lower) {
				next = append(next, l)
				continue
			}
			if part.lower.After(l.lower) {
				next = append(next, span{l.lower, part.lower})
			}
			if part.upper.Before(l.upper) {
				next = append(next, span{part.upper, l.upper})
			}
		}
		left = next
	}
	return left
}

// suffix is what partitionName appends.
var suffix = regexp.MustCompile(`^_p[0-9]{8}([0-9]{2}){0,3}$`)

// partitionName names a partition by its lower bound in UTC: to the day when it is of whole days, else to the hour, or
// as finely as the bound needs.
func (t partitioned) partitionName(s span) string {
	layout := "20060102150405"
	const day = 24 * time.Hour
	switch {
	case s.lower.Equal(s.lower.Truncate(day)) && s.upper.Equal(s.upper.Truncate(day)):
		layout = "20060102"
	case s.lower.Equal(s.lower.Truncate(time.Hour)):
		layout = "2006010215"
	case s.lower.Equal(s.lower.Truncate(time.Minute)):
		layout = "200601021504"
	}
	return t.prefix() + "_p" + s.lower.Format(layout)
}

// prefix leaves room for the longest suffix in PostgreSQL's 63 bytes.
func (t partitioned) prefix() string { return strings.ToValidUTF8(t.name[:min(len(t.name), 46)], "") }

// readPartitioned reads the table from the catalog. The session's time zone must be UTC and its date style ISO.
func readPartitioned(ctx context.Context, tx pgx.Tx, name string) (partitioned, error) {
	var t partitioned
	var key *string
	err := tx.QueryRow(ctx, `
		SELECT n.nspname, c.relname,
		       (SELECT a.attname FROM pg_partitioned_table p
		        JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
		        WHERE p.partrelid = c.oid AND p.partstrat = 'r' AND p.partnatts = 1
		          AND a.atttypid = 'timestamptz'::regtype)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)`,
		name).Scan(&t.schema, &t.name, &key)
	if errors.Is(err, pgx.ErrNoRows) {
		return t, fmt.Errorf("outbox table %s does not exist, run `relay migrate`", name)
	}
	if err != nil {
		return t, fmt.Errorf("read outbox table %s: %w", name, err)
	}
	if key == nil {
		return t, nil
	}
	t.key = *key
	rows, err := tx.Query(ctx, `
		SELECT n.nspname, c.relname, b.bound = 'DEFAULT',
		       substring(b.bound FROM 'FROM \(''([^'']*)''\)')::timestamptz,
		       substring(b.bound FROM 'TO \(''([^'']*)''\)')::timestamptz
		FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
		     LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b
		WHERE i.inhparent = to_regclass($1) ORDER BY 4 NULLS FIRST, c.relname`, name)
	if err != nil {
		return t, fmt.Errorf("read partitions of %s: %w", name, err)
	}
	var part partition
	var isDefault bool
	var lower, upper pgtype.Timestamptz
	_, err = pgx.ForEachRow(rows, []any{&part.schema, &part.name, &isDefault, &lower, &upper}, func() error {
		if isDefault {
			t.defaultLeaf = quoted(part.schema, part.name)
			return nil
		}
		part.lower, part.upper = bound(lower, beginningOfTime), bound(upper, endOfTime)
		rest, found := strings.CutPrefix(part.name, t.prefix())
		part.ours = found && suffix.MatchString(rest)
		t.partitions = append(t.partitions, part)
		return nil
	})
	if err != nil {
		return t, fmt.Errorf("read partitions of %s: %w", name, err)
	}
	return t, nil
}

// bound reads a bound; MINVALUE and MAXVALUE come as NULL.
func bound(t pgtype.Timestamptz, unbounded time.Time) time.Time {
	switch {
	case !t.Valid:
		return unbounded
	case t.InfinityModifier == pgtype.NegativeInfinity:
		return beginningOfTime
	case t.InfinityModifier == pgtype.Infinity:
		return endOfTime
	}
	return t.Time.UTC()
}

// partitionColumns is the quoted list of the columns that hold values, not those that are computed from others.
type partitionColumns string

func readColumns(ctx context.Context, tx pgx.Tx, t partitioned) (partitionColumns, error) {
	var columns partitionColumns
	err := tx.QueryRow(ctx, `
		SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
		WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`,
		quoted(t.schema, t.name)).Scan(&columns)
	if err != nil {
		return "", fmt.Errorf("read columns of %s: %w", t.name, err)
	}
	return columns, nil
}

func quoted(name ...string) string { return pgx.Identifier(name).Sanitize() }

// literal writes t as PostgreSQL reads it. t lies between the years 1 and 9999.
func literal(t time.Time) string { return "'" + t.UTC().Format("2006-01-02 15:04:05.999999") + "+00'" }
