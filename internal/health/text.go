package health

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// refusedTLS is how pgx says that the server has no TLS. With sslmode=prefer that is the first of two attempts, and
// never the reason why the second failed.
const refusedTLS = "server refused TLS connection"

// text is an error in one line.
func text(err error) string {
	if err == nil {
		return ""
	}
	s := err.Error()
	if parse, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		s = strings.Replace(s, parse.Error(), unparsable(parse), 1)
	}
	if refused, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		s = strings.Replace(s, refused.Error(), refusal(refused), 1)
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		if pg.Detail != "" && !strings.Contains(s, pg.Detail) {
			s += "; detail: " + pg.Detail
		}
		if pg.Hint != "" && !strings.Contains(s, pg.Hint) {
			s += "; the server's hint: " + pg.Hint
		}
	}
	return strings.Join(strings.Fields(s), " ")
}

// unparsable says that a connection string cannot be read, and nothing of it: whatever a parser complains about may be
// a piece of a password.
func unparsable(*pgconn.ParseConfigError) string { return "the connection string cannot be parsed" }

// refusal is a refused connection by its causes: each once, and none that an attempt without TLS made irrelevant.
func refusal(err *pgconn.ConnectError) string {
	var causes []string
	for _, leaf := range leaves(err.Unwrap()) {
		cause := strings.Replace(leaf.Error(), "server error: ", "", 1)
		cause = strings.Replace(cause, "dial error: dial tcp ", "dial tcp ", 1)
		if !slices.Contains(causes, cause) {
			causes = append(causes, cause)
		}
	}
	real := slices.DeleteFunc(slices.Clone(causes), func(s string) bool { return strings.Contains(s, refusedTLS) })
	if len(real) > 0 {
		causes = real
	}
	return fmt.Sprintf("role %s, database %s: %s", err.Config.User, err.Config.Database, strings.Join(causes, "; "))
}

// leaves are the errors that were joined.
func leaves(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, leaves(e)...)
		}
		return all
	}
	return []error{err}
}
