package migrate

import (
	"context"
	_ "embed" // the statement
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/sql"
)

//go:embed objects.sql
var objectsSQL string

// object is a row of objects.sql.
type object struct{ kind, name, create, replace string }

func (o object) String() string { return o.kind + " " + o.name }

// ErrDamaged says that objects are missing and cannot be made again.
var ErrDamaged = errors.New("the schema is damaged")

// restore compares the schemas with what the migrations make, and makes again what is missing or, of functions and views, has
// changed. It returns the names of that. What the migrations make is found out by running them where nobody sees it.
//
// A column that has another type or constraint is left alone, and what somebody has added too.
func restore(ctx context.Context, tx pgx.Tx) (restored []string, err error) {
	have, err := objects(ctx, tx)
	if err != nil {
		return nil, err
	}
	want, err := pristine(ctx, tx)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return nil, nil // whoever does not own the schemas cannot mend them either
	}
	if err != nil {
		return nil, fmt.Errorf("find out what the migrations make: %w", err)
	}
	var lacks []object
	files := false
	for key, o := range want {
		is, there := have[key]
		writers := o.kind == "function" && strings.HasPrefix(o.name, "outbox.") && o.name != "outbox.uuid_v7()"
		switch {
		case writers && (!there || is.replace != o.replace): // their files have the grants, too
			files = true
			restored = append(restored, o.String())
		case writers:
		case !there:
			lacks = append(lacks, o)
			restored = append(restored, o.String())
		case is.replace != o.replace:
			o.create = o.replace
			lacks = append(lacks, o)
			restored = append(restored, o.String())
		}
	}
	if files {
		if _, err := tx.Exec(ctx, "DELETE FROM relay.schema_functions"); err != nil {
			return nil, fmt.Errorf("apply functions again: %w", err)
		}
	}
	slices.SortFunc(lacks, func(a, b object) int { return strings.Compare(a.String(), b.String()) })
	if err := makeAll(ctx, tx, lacks); err != nil {
		return nil, err
	}
	slices.Sort(restored)
	return restored, nil
}

// makeAll makes objects, each when what it needs is there.
func makeAll(ctx context.Context, tx pgx.Tx, lacks []object) error {
	for len(lacks) > 0 {
		var left []object
		var failed error
		for _, o := range lacks {
			err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				now, err := exists(ctx, tx, o) // with the table that it belongs to
				if now || err != nil {
					return err
				}
				if err := tx.Conn().PgConn().Exec(ctx, o.create).Close(); err != nil {
					return err
				}
				return seed(ctx, tx, o)
			})
			if err != nil {
				left, failed = append(left, o), errors.Join(failed, fmt.Errorf("%s: %w", o, err))
			}
		}
		if len(left) == len(lacks) {
			return damaged(left, failed)
		}
		lacks = left
	}
	return nil
}

// exists reports whether an object came with another one. Those that are replaced are there before.
func exists(ctx context.Context, tx pgx.Tx, o object) (bool, error) {
	if o.replace != "" {
		return false, nil
	}
	have, err := objects(ctx, tx)
	if err != nil {
		return false, err
	}
	_, there := have[o.String()]
	return there, nil
}

// seed gives an object that was made again what a migration puts into it. Epochs only grow.
func seed(ctx context.Context, tx pgx.Tx, o object) error {
	var err error
	switch o.String() {
	case "table relay.cursor_key":
		_, err = tx.Exec(ctx, "INSERT INTO relay.cursor_key DEFAULT VALUES")
	case "sequence relay.epochs":
		_, err = tx.Exec(ctx, "SELECT setval('relay.epochs', max(epoch)) FROM relay.progress HAVING max(epoch) > 0")
	}
	return err
}

// damaged names what cannot be made again, with the statements.
func damaged(left []object, cause error) error {
	var names, statements []string
	for _, o := range left {
		names, statements = append(names, o.String()), append(statements, o.create)
	}
	return health.WithCondition(fmt.Errorf("%w: %s cannot be made again: %w", ErrDamaged, strings.Join(names, ", "), cause),
		health.Condition{State: health.Misconfigured, Remedy: "make it by hand: " + strings.Join(statements, "; ")})
}

func objects(ctx context.Context, tx pgx.Tx) (map[string]object, error) {
	rows, err := tx.Query(ctx, objectsSQL)
	if err != nil {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	found := make(map[string]object)
	var o object
	if _, err := pgx.ForEachRow(rows, []any{&o.kind, &o.name, &o.create, &o.replace}, func() error {
		found[o.String()] = o
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	return found, nil
}

// errSeen ends the savepoint in which the migrations ran once more.
var errSeen = errors.New("seen")

// pristine lists what the migrations make. They run beside the schemas that are there, and are taken back.
func pristine(ctx context.Context, tx pgx.Tx) (found map[string]object, err error) {
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		for _, schema := range []string{"outbox", "relay"} {
			var exists bool
			if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema).Scan(&exists); err != nil {
				return err
			}
			if exists {
				if _, err := tx.Exec(ctx, "ALTER SCHEMA "+schema+" RENAME TO relay_set_aside_"+schema); err != nil {
					return err
				}
			}
		}
		for _, m := range known.migrations {
			text, err := fs.ReadFile(sql.Files, "migrations/"+m.name)
			if err != nil {
				return err
			}
			_, up, _ := strings.Cut(string(text), "-- +goose Up")
			if err := tx.Conn().PgConn().Exec(ctx, up).Close(); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
		}
		for _, f := range known.functions {
			if err := tx.Conn().PgConn().Exec(ctx, f.text).Close(); err != nil {
				return fmt.Errorf("functions/%s: %w", f.name, err)
			}
		}
		if found, err = objects(ctx, tx); err != nil {
			return err
		}
		return errSeen
	})
	if !errors.Is(err, errSeen) {
		return nil, err
	}
	return found, nil
}
