package postgres

import (
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// pinned are settings by which values look the same in every session, whatever the role or the database has set. A startup
// parameter wins over both, and over the connection string here.
//
// With row_security = off a query fails that row-level security would make show less than there is.
//
// Source: https://www.postgresql.org/docs/current/runtime-config-client.html
var pinned = map[string]string{
	"client_encoding":             "UTF8",
	"DateStyle":                   "ISO, YMD",
	"IntervalStyle":               "postgres",
	"bytea_output":                "hex",
	"extra_float_digits":          "3",
	"standard_conforming_strings": "on",
	"xmloption":                   "content",
	"row_security":                "off",
}

// bounds are what a role may have set for the sessions of people, and what would end the relay's. A bound in the connection
// string is meant for the relay, and stays.
var bounds = map[string]string{
	"statement_timeout":                   "0",
	"idle_in_transaction_session_timeout": "0",
	"idle_session_timeout":                "0",
}

// sinceVersion17 bounds whole transactions. Older servers do not know it.
const sinceVersion17 = "transaction_timeout"

// throughPooler are the parameters that every pooler passes on. The rest is what its server sessions have.
var throughPooler = []string{"client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name"}

// pin sets the parameters of a session.
func pin(c *pgconn.Config, o Options) {
	for _, defaults := range []map[string]string{o.Defaults, bounds} {
		for name, value := range defaults {
			if _, given := c.RuntimeParams[name]; !given {
				c.RuntimeParams[name] = value
			}
		}
	}
	set(c, o.Settings)
	set(c, pinned)
	set(c, map[string]string{"application_name": o.Application})
}

// set sets parameters; the server does not tell upper case from lower case in their names, and takes the last of two.
func set(c *pgconn.Config, to map[string]string) {
	for name, value := range to {
		for other := range c.RuntimeParams {
			if strings.EqualFold(name, other) {
				delete(c.RuntimeParams, other)
			}
		}
		c.RuntimeParams[name] = value
	}
}

// leaveToPooler takes away what a pooler may refuse.
func leaveToPooler(c *pgconn.Config) {
	kept := make(map[string]string)
	for _, name := range throughPooler {
		if value, ok := c.RuntimeParams[name]; ok {
			kept[name] = value
		}
	}
	c.RuntimeParams = kept
}
