package health

import (
	"context"
	_ "embed" // the statement
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Right is an object of the database that the relay needs, and what it does with it.
type Right struct {
	Kind   string // schema, table (or view), sequence, function or trigger
	Schema string
	Name   string // empty for a schema
	Rights []string
}

// object is its name in a statement.
func (r Right) object() string {
	if r.Kind == "schema" {
		return identifier(r.Schema, "")
	}
	return identifier(r.Schema, "") + "." + identifier(r.Name, "")
}

// String is the object as a GRANT names it.
func (r Right) String() string {
	if r.Kind == "table" {
		return r.object()
	}
	return strings.ToUpper(r.Kind) + " " + r.object()
}

// written are the tables of the relay that it reads and writes, readOnly those that it only reads.
var (
	written = []string{"accounted", "bodies", "changes", "deliveries", "discarded", "failing", "idempotency", "incidents", "parked", "progress", "quarantine",
		"replays", "requests", "sequences", "settled", "subscriptions", "tokens"}
	readOnly  = []string{"cursor_key", "rejected", "schema_functions", "schema_version"}
	functions = []string{"advance", "mark", "refuse", "timeline"}
	// triggers tell a running relay what was changed; without one it would not know.
	triggers = []string{"note_subscription", "replay_asked", "request_made", "rules_changed", "subscription_changed"}
)

// Rights is what a running relay needs in the database, docs/operations.md has the GRANTs. table is the outbox,
// schema.table, "" for none.
func Rights(table string) []Right {
	list := []Right{{"schema", "relay", "", []string{"USAGE"}}}
	for _, name := range written {
		list = append(list, Right{"table", "relay", name, []string{"SELECT", "INSERT", "UPDATE", "DELETE"}})
	}
	for _, name := range readOnly {
		list = append(list, Right{"table", "relay", name, []string{"SELECT"}})
	}
	list = append(list, Right{"sequence", "relay", "epochs", []string{"USAGE"}})
	for _, name := range functions {
		list = append(list, Right{"function", "relay", name, []string{"EXECUTE"}})
	}
	for _, name := range triggers {
		list = append(list, Right{"trigger", "relay", name, nil})
	}
	if schema, name, ok := strings.Cut(table, "."); ok {
		list = append(list, Right{"schema", schema, "", []string{"USAGE"}}, Right{"table", schema, name, []string{"SELECT"}})
	}
	return list
}

//go:embed rights.sql
var rightsSQL string

// Rows runs a query that returns rows. A pgx connection, pool or transaction does.
type Rows interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// lack is a row of rights.sql.
type lack struct {
	Right
	missing bool
}

// CheckRights looks whether everything that a running relay needs is there and may be used, and whether the database takes
// writes. ok is false when something lacks; the Condition says what, and has the statement.
func CheckRights(ctx context.Context, db Rows, f Facts) (c Condition, ok bool, err error) {
	wanted := Rights(f.Table)
	var kinds, schemas, names, rights []string
	for _, r := range wanted {
		kinds, schemas, names, rights = append(kinds, r.Kind), append(schemas, r.Schema), append(names, r.Name), append(rights, strings.Join(r.Rights, ","))
	}
	rows, err := db.Query(ctx, rightsSQL, kinds, schemas, names, rights)
	if err != nil {
		return c, false, fmt.Errorf("check rights: %w", err)
	}
	var (
		role               string
		readOnly           bool
		kind, schema, name *string
		missing            *bool
		lacks              []string
		found              []lack
	)
	if _, err := pgx.ForEachRow(rows, []any{&role, &readOnly, &kind, &schema, &name, &missing, &lacks}, func() error {
		if kind != nil {
			found = append(found, lack{Right{*kind, *schema, *name, slices.Clone(lacks)}, *missing})
		}
		return nil
	}); err != nil {
		return c, false, fmt.Errorf("check rights: %w", err)
	}
	f.Role = role
	switch {
	case len(found) > 0:
		return lacking(found, f), false, nil
	case readOnly:
		r := readOnlyRule()
		names := f.names(f.Role, f.Database)
		return Condition{State: ReadOnly, Sentence: names.Replace(r.sentence), Remedy: names.Replace(r.remedy)}, false, nil
	}
	return c, true, nil
}

// mostNamed bounds how many objects a sentence names.
const mostNamed = 5

// lacking says what of the database is missing or may not be used.
func lacking(found []lack, f Facts) Condition {
	role := identifier(f.Role, "ROLE")
	var gone, schemas []string
	barred := make(map[string][]string) // by kind and rights, in the order of found
	var kinds []string
	outbox := false
	for _, l := range found {
		switch {
		case l.missing && l.Kind == "schema":
			schemas = append(schemas, l.Schema)
			gone = append(gone, "schema "+l.Schema)
		case l.missing && slices.Contains(schemas, l.Schema): // goes without saying
		case l.missing:
			gone = append(gone, l.Kind+" "+l.object())
		default:
			key := strings.Join(l.Rights, ", ") + " ON "
			if l.Kind != "table" {
				key += strings.ToUpper(l.Kind) + " "
			}
			if barred[key] == nil {
				kinds = append(kinds, key)
			}
			barred[key] = append(barred[key], l.object())
		}
		outbox = outbox || l.missing && l.Schema+"."+l.Name == f.Table
	}
	c := Condition{State: Misconfigured}
	var sentences, remedies []string
	if len(gone) > 0 {
		verb := " is missing"
		if len(gone) > 1 {
			verb = " are missing"
		}
		sentences = append(sentences, some(gone)+verb)
		remedy := "run `relay migrate`"
		if outbox {
			remedy += ", or set outbox.table to the table that your writers use"
		}
		remedies = append(remedies, remedy)
	}
	for _, key := range kinds {
		sentences = append(sentences, "role "+role+" lacks "+key+some(barred[key]))
		remedies = append(remedies, "GRANT "+key+strings.Join(barred[key], ", ")+" TO "+role)
	}
	c.Sentence, c.Remedy = strings.Join(sentences, ", and "), strings.Join(remedies, "; ")
	return c
}

// some lists the first few of many.
func some(list []string) string {
	if len(list) <= mostNamed {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:mostNamed], ", "), len(list)-mostNamed)
}

// grantFor is the GRANT for the object that the server's message names, "" when it names none of ours.
func grantFor(message, role string, f Facts) string {
	object := lastWord(message)
	for _, r := range Rights(f.Table) {
		if object != "" && (r.Name == object || r.Kind == "schema" && r.Schema == object && strings.Contains(message, "schema")) {
			return fmt.Sprintf("GRANT %s ON %s TO %s", strings.Join(r.Rights, ", "), r, role)
		}
	}
	return ""
}
