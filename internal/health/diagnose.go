package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// rule is a row of the table. In sentence and remedy, {role}, {database}, {table}, {slot}, {publication}, {object},
// {relation} and {constraint} are filled in.
type rule struct {
	code     string      // SQLSTATE, or the beginning of it
	during   []Situation // nil: in any
	says     string      // word of the server's message, for what it tells in words only; "" for any
	state    State
	sentence string
	remedy   string
}

// What a pooler does to statements that are prepared by name, and is not known to be one.
const (
	pooledStatements = "what database.url leads to mixes up prepared statements, as a pooler does"
	toTheServer      = "set pool_mode = session there, or database.url to PostgreSQL itself"
)

var replicating = []Situation{ConnectReplication, CreateSlot, Stream}

// rules are looked through in order, and the first that fits counts.
//
// Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
var rules = []rule{
	// The connection and its role.
	{"08P01", []Situation{ConnectReplication}, "", Misconfigured, "what database.replication_url leads to does not speak replication, as a pooler does not",
		"set database.replication_url to PostgreSQL itself"},
	{"08P01", []Situation{Connect}, "startup parameter", Misconfigured, "a pooler refuses a parameter of the connection",
		"take the parameter out of database.url, or add it to ignore_startup_parameters of PgBouncer"},
	{"42501", []Situation{Migrate}, "for database", Misconfigured, "role {role} may not create schemas in database {database}",
		"GRANT CREATE ON DATABASE {database} TO {role}"},
	{"42501", nil, "for database", Misconfigured, "role {role} may not connect to database {database}", "GRANT CONNECT ON DATABASE {database} TO {role}"},
	{"42501", replicating, "", Misconfigured, "role {role} may not use replication", "ALTER ROLE {role} REPLICATION"},
	{"28P01", nil, "", Misconfigured, "the password of role {role} is refused",
		"set the right password in database.url (or database.replication_url), or ALTER ROLE {role} PASSWORD '...'"},
	{"28", nil, "pg_hba.conf", Misconfigured, "pg_hba.conf of the server has no line that lets role {role} into database {database}",
		"add a line such as: host {database} {role} ADDRESS/32 scram-sha-256, then SELECT pg_reload_conf()"},
	{"28", nil, "does not exist", Misconfigured, "there is no role {role}", "CREATE ROLE {role} LOGIN REPLICATION PASSWORD '...'"},
	{"28", nil, "not permitted to log in", Misconfigured, "role {role} may not log in", "ALTER ROLE {role} LOGIN"},
	{"28", nil, "", Misconfigured, "the server refuses role {role}", "look at the user in database.url and at pg_hba.conf of the server"},
	{"3D000", nil, "", Misconfigured, "there is no database {database}", "set the right one in database.url, or CREATE DATABASE {database}"},
	{"57P04", nil, "", Misconfigured, "database {database} has been dropped", "set the right one in database.url"},
	{"42704", []Situation{Connect, ConnectReplication}, "", Misconfigured, "the server does not know a parameter of the connection string",
		"take it out of database.url and database.replication_url: what is not a parameter of libpq is sent to the server as a setting"},
	{"22023", []Situation{Connect, ConnectReplication}, "", Misconfigured, "the server refuses the value of a parameter of the connection string",
		"correct it in database.url and database.replication_url"},
	{"42704", nil, "configuration parameter", Misconfigured, "the server does not know a setting of the connection string",
		"take it out of database.url and database.replication_url"},

	// Slot, publication and stream.
	{"55006", nil, "", Standby, "", ""},
	{"55000", nil, "wal_level", Misconfigured, "the server runs with a wal_level below logical",
		"ALTER SYSTEM SET wal_level = 'logical', then restart PostgreSQL"},
	{"42704", replicating, "publication ", PublicationMissing, "", ""},
	{"42704", replicating, "", SlotMissing, "", ""},
	{"58P01", []Situation{CreateSlot}, "", Misconfigured, "the server has no output plugin pgoutput",
		"install the whole of PostgreSQL's server package on that machine"},
	{"58P01", []Situation{Stream}, "", SlotLost, "the server has removed WAL that slot {slot} needs",
		"SELECT pg_drop_replication_slot('{slot}'): the relay then reads the rows of the gap from the table (`relay rescue --dry-run` tells which)"},
	{"55000", []Situation{Stream}, "", SlotLost, "", ""},
	{"XX000", []Situation{Stream}, "", DecodePoison, "the server cannot decode a change",
		"delete the row from {table}, then begin again: SELECT pg_drop_replication_slot('{slot}')"},
	{"54000", []Situation{Stream}, "", DecodePoison, "a row is too large to be sent",
		"delete the row from {table}, then begin again: SELECT pg_drop_replication_slot('{slot}')"},
	{"22", []Situation{Stream}, "", DecodePoison, "the server cannot convert a row to UTF-8",
		"delete the row from {table}, then begin again: SELECT pg_drop_replication_slot('{slot}')"},
	{"0A000", replicating, "", Misconfigured, "the server cannot decode its WAL, as a standby before 16 cannot",
		"set database.replication_url to the primary"},
	{"42501", []Situation{CreatePublication}, "", Misconfigured, "role {role} may not create publication {publication}",
		"GRANT CREATE ON DATABASE {database} TO {role}; ALTER TABLE {table} OWNER TO {role}"},

	// What the server has no more of.
	{"53400", []Situation{CreateSlot}, "", OutOfResources, "the server has no replication slot left",
		"drop one that nobody uses (SELECT slot_name, active FROM pg_replication_slots; SELECT pg_drop_replication_slot('NAME')), " +
			"or raise max_replication_slots (ALTER SYSTEM SET max_replication_slots = one more) and restart PostgreSQL"},
	{"53400", nil, "temp_file_limit", OutOfResources, "a statement needs more temporary space than temp_file_limit allows",
		"ALTER ROLE {role} SET temp_file_limit = -1 (as a superuser)"},
	{"53300", nil, "max_wal_senders", OutOfResources, "the server has no WAL sender left",
		"raise max_wal_senders (ALTER SYSTEM SET max_wal_senders = one more) and restart PostgreSQL"},
	{"53300", nil, "for role", OutOfResources, "role {role} has no connection left", "ALTER ROLE {role} CONNECTION LIMIT -1, or lower database.max_connections"},
	{"53300", nil, "for database", OutOfResources, "database {database} has no connection left",
		"ALTER DATABASE {database} CONNECTION LIMIT -1, or lower database.max_connections"},
	{"53300", nil, "", OutOfResources, "the server has no connection left",
		"end sessions that nobody needs (pg_stat_activity), lower database.max_connections, or raise max_connections and restart PostgreSQL"},
	{"53200", nil, "shared memory", OutOfResources, "the server's table of locks is full, as many partitions make it",
		"raise max_locks_per_transaction (ALTER SYSTEM SET max_locks_per_transaction = 256) and restart PostgreSQL, " +
			"or have fewer partitions: a longer outbox.partition_interval, a shorter outbox.retention"},
	{"53200", nil, "", OutOfResources, "the server is out of memory", "give the server more memory, or lower work_mem and shared_buffers"},
	{"53100", nil, "", OutOfResources, "the server's disk is full", "make room on the volume of PostgreSQL"},
	{"53", nil, "", OutOfResources, "the server is out of a resource", "look at the log of PostgreSQL"},

	// What lets nothing be written, or no statement end.
	{"25006", nil, "", ReadOnly, "database {database} takes no writes: a standby, or a read-only mode",
		"connect to the primary (target_session_attrs=read-write in database.url); if this is the primary, end its read-only mode: " +
			"ALTER DATABASE {database} RESET default_transaction_read_only, ALTER ROLE {role} RESET default_transaction_read_only, or the provider's switch"},
	{"57P05", nil, "", Degraded, "the server ends idle sessions of role {role}", "ALTER ROLE {role} SET idle_session_timeout = 0"},
	{"25P03", nil, "", Degraded, "the server ends transactions of role {role} that are idle for a moment", "ALTER ROLE {role} SET idle_in_transaction_session_timeout = '1min'"},
	{"25P04", nil, "", Degraded, "the server ends long transactions of role {role}", "ALTER ROLE {role} SET transaction_timeout = 0"},
	{"57014", nil, "statement timeout", Degraded, "statements of role {role} take longer than its statement_timeout",
		"ALTER ROLE {role} SET statement_timeout = '1min', and look at what the server is busy with"},
	{"55P03", nil, "", Degraded, "somebody holds a lock that the relay waits for", "look for it: SELECT pid, pg_blocking_pids(pid), query FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"},
	{"57P0", nil, "", ShuttingDown, "", ""},

	// Objects and rights.
	{"3F000", nil, "", Misconfigured, "a schema of the relay is missing", "run `relay migrate`"},
	{"42P01", []Situation{ReadOutbox, CreatePublication}, "", Misconfigured, "table {table} is missing",
		"run `relay migrate`, or set outbox.table to the table that your writers use"},
	{"42P01", nil, "", Misconfigured, "a table of the relay is missing", "run `relay migrate`"},
	{"42703", []Situation{ReadOutbox}, "", Misconfigured, "table {table} lacks a column", "set outbox.columns to the names of your columns"},
	{"42703", nil, "", Misconfigured, "a table of the relay lacks a column", "run `relay migrate`"},
	{"42883", nil, "", Misconfigured, "a function of the relay is missing", "run `relay migrate`"},
	{"42501", []Situation{Migrate}, "for schema", Misconfigured, "role {role} may not use a schema that another role owns",
		"run `relay migrate` as the role that owns the schemas outbox and relay, or ALTER SCHEMA {object} OWNER TO {role}"},
	{"42501", []Situation{Migrate}, "must be owner", Misconfigured, "role {role} does not own what it must change",
		"run `relay migrate` as the role that owns the schemas outbox and relay"},
	{"42501", nil, "row-level security", Misconfigured, "row-level security hides rows from role {role}", allRows},
	{"42501", nil, "must be owner", Misconfigured, "role {role} does not own what it must change", "run `relay migrate` and `relay run` as one role"},
	{"42501", nil, "", Misconfigured, "role {role} lacks a right", grantSomething},
	{"23", []Situation{Record}, "", RecordingStalled, "constraint {constraint} on {relation} refuses what the relay records",
		"ALTER TABLE {relation} DROP CONSTRAINT {constraint}, unless it is the relay's own"},
	{"22", []Situation{Record}, "", RecordingStalled, "the server refuses a value that the relay records", ""},
	{"42P05", nil, "", Misconfigured, pooledStatements, toTheServer},
	{"26000", nil, "", Misconfigured, pooledStatements, toTheServer},
	{"42", nil, "", Misconfigured, "the server refuses a statement of the relay", "run `relay migrate`, and look at the log of PostgreSQL"},
	{"XX001", nil, "", Degraded, "the server has found damaged data", "look at the log of PostgreSQL; restore from a backup"},
	{"XX", nil, "", Degraded, "the server reports an internal error", "look at the log of PostgreSQL"},
	{"58", nil, "", Degraded, "the server reports an error of its operating system", "look at the log of PostgreSQL"},
}

// Diagnose says what an error means: the state it leaves the relay in, what is wrong in a sentence, and what mends it.
// An error that carries its Condition is taken at its word.
func Diagnose(err error, f Facts) Condition {
	if fault, ok := errors.AsType[*Fault](err); ok {
		c := fault.Condition
		if c.Sentence == "" {
			c.Sentence = text(fault.Err)
		}
		return c
	}
	s := situation(err)
	if _, refused := errors.AsType[*pgconn.ConnectError](err); refused && s == "" {
		s = Connect
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return offline(err, f)
	}
	for _, r := range rules {
		if strings.HasPrefix(pg.Code, r.code) && (r.during == nil || slices.Contains(r.during, s)) && strings.Contains(pg.Message, r.says) {
			return r.fill(err, pg, s, f)
		}
	}
	return Condition{State: Unreachable, Sentence: text(err), Remedy: "look at the log of PostgreSQL"}
}

// offline is about errors that the server did not send.
func offline(err error, f Facts) Condition {
	c := Condition{State: Unreachable, Sentence: text(err)}
	var unknown x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	var dns *net.DNSError
	_, parse := errors.AsType[*pgconn.ParseConfigError](err)
	switch {
	case parse:
		c.State = Misconfigured
		c.Remedy = "write it as postgres://ROLE:PASSWORD@HOST:PORT/DATABASE with each of # / ? @ : % and blanks in the password escaped " +
			"(@ is %40, / is %2F, # is %23), or put the password into database.url_file or PGPASSFILE"
	case errors.As(err, &unknown), errors.As(err, &wrongName), errors.As(err, &invalid), errors.As(err, &verify):
		c.State = Misconfigured
		c.Remedy = "set sslrootcert in database.url to the authority that signed the server's certificate, and the host to a name in it"
	case strings.Contains(c.Sentence, refusedTLS):
		c.State = Misconfigured
		c.Remedy = "turn TLS on at the server (ssl = on), or, where the network is yours, sslmode=disable in database.url with database.allow_plaintext"
	case errors.As(err, &dns) && dns.IsNotFound:
		c.Remedy = "look at the host in database.url and database.replication_url"
	case errors.Is(err, context.Canceled):
	default:
		if _, refused := errors.AsType[*pgconn.ConnectError](err); refused {
			c.Remedy = "look at database.url and database.replication_url (`relay config print` shows where they come from), at the server and at the network between"
		}
	}
	return c
}

func (r rule) fill(err error, pg *pgconn.PgError, s Situation, f Facts) Condition {
	role, database := f.roleOf(s), f.Database
	if refused, ok := errors.AsType[*pgconn.ConnectError](err); ok { // it knows who it was
		role, database = refused.Config.User, refused.Config.Database
	}
	relation := "its table"
	if pg.TableName != "" {
		relation = pgx.Identifier{pg.SchemaName, pg.TableName}.Sanitize()
	}
	names := f.names(role, database, "{object}", identifier(lastWord(pg.Message), "NAME"), "{relation}", relation,
		"{constraint}", identifier(pg.ConstraintName, "NAME"))
	c := Condition{State: r.state, Sentence: text(err), Remedy: names.Replace(r.remedy)}
	if r.sentence != "" {
		c.Sentence = names.Replace(r.sentence) + ": " + c.Sentence
	}
	if r.remedy == grantSomething {
		if grant := grantFor(pg.Message, identifier(role, "ROLE"), f); grant != "" {
			c.Remedy = grant
		}
	}
	return c
}

// grantSomething is what is said when the server's words do not tell which right lacks.
const grantSomething = "GRANT the right to {role}: docs/operations.md lists all that it needs"

// readOnlyRule is the rule of a database that takes no writes.
func readOnlyRule() rule {
	return rules[slices.IndexFunc(rules, func(r rule) bool { return r.state == ReadOnly })]
}

// names fills in names.
func (f Facts) names(role, database string, more ...string) *strings.Replacer {
	return strings.NewReplacer(append([]string{
		"{role}", identifier(role, "ROLE"), "{database}", identifier(database, "DATABASE"), "{table}", orElse(f.Table, "the outbox"),
		"{slot}", orElse(f.Slot, "SLOT"), "{publication}", orElse(f.Publication, "PUBLICATION")}, more...)...)
}

// allRows lets a role read all rows. A policy that lets it see each of them would not do: PostgreSQL does not know what a policy
// lets through, so it refuses to read under row_security = off.
const allRows = "ALTER ROLE {role} BYPASSRLS (as a superuser; a policy is not enough)"

// HiddenRows says that row-level security binds a role that must read every row of a table.
func HiddenRows(table, role string, owner bool) Condition {
	c := Condition{State: Misconfigured, Sentence: fmt.Sprintf("row-level security of %s may hide rows from role %s, so nothing is read from the table", table, role),
		Remedy: strings.ReplaceAll(allRows, "{role}", identifier(role, "ROLE"))}
	if schema, name, ok := strings.Cut(table, "."); ok && owner {
		c.Remedy += fmt.Sprintf(", or, since it owns the table and only FORCE binds it, ALTER TABLE %s.%s NO FORCE ROW LEVEL SECURITY", identifier(schema, ""), identifier(name, ""))
	}
	return c
}

// Identifier is a name as a statement needs it.
func Identifier(name string) string { return identifier(name, "") }

// identifier is a name as a statement needs it.
func identifier(name, general string) string {
	if name == "" {
		return general
	}
	plain := name[0] >= 'a' && name[0] <= 'z' || name[0] == '_'
	for _, c := range name {
		plain = plain && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_')
	}
	if plain {
		return name
	}
	return pgx.Identifier{name}.Sanitize()
}

// lastWord is the last word of a message such as "permission denied for table progress".
func lastWord(message string) string {
	words := strings.Fields(message)
	if len(words) == 0 {
		return ""
	}
	return strings.Trim(words[len(words)-1], `"`)
}
