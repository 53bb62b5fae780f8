package config

import (
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	secrets "github.com/outbox-relay/relay/internal/secret"
)

// Config holds every setting of the relay, valid as a whole. Load makes it; it is read-only from then on.
type Config struct {
	Version  int // of the file's format; 1
	Database Database
	CDC      CDC
	Outbox   Outbox
	Catalog  Catalog
	Deliver  Deliver
	Replay   Replay
	Egress   Egress
	Secrets  Secrets
	HTTP     HTTP
	API      API
	Auth     Auth
	Metrics  Metrics
	Log      Log

	file    string
	origins map[string]Origin
}

// Database says how PostgreSQL is reached. Both URLs hold passwords: print them with Redact only.
type Database struct {
	URL            string // ordinary connections, pooler allowed; "" when not configured
	ReplicationURL string // direct connection for the stream; URL when not configured
	MaxConnections int    // upper bound of the pool behind URL
	AllowPlaintext bool   // lets sslmode=disable lead to another machine
}

// CDC governs the replication stream.
type CDC struct {
	Slot             string
	Publication      string
	Recovery         Recovery
	Failover         bool          // create the slot with failover, on servers that know it (17 and later)
	StatusInterval   time.Duration // longest time between two status updates to the server
	SilenceTimeout   time.Duration // without a byte from the server for so long, the connection is dead
	ProgressInterval time.Duration // how often progress is written while the outbox is idle
	MarkerInterval   time.Duration // how often the audit compares the table with the stream
	WALBudget        Size          // WAL that the slot may hold; 0: derived from max_slot_wal_keep_size
}

// Recovery says what happens after the slot was lost.
type Recovery string

const (
	RecoveryAutomatic Recovery = "automatic" // the rescue starts by itself
	RecoveryManual    Recovery = "manual"    // the relay waits for `relay rescue`
)

// Outbox describes the table that the events come from.
type Outbox struct {
	Table             string // schema.table, spelled as in the catalog of PostgreSQL
	Preset            Preset
	Columns           Columns
	Retention         time.Duration // settled partitions older than this are dropped
	PartitionInterval time.Duration // time that one partition covers
	PartitionsAhead   int           // partitions that exist before they are needed
	MaxPayload        Size          // a larger payload is quarantined
	QuarantineShare   float64       // of the latest rows; when more are quarantined, the relay is degraded
}

// Identifier returns the table as a name that can be quoted.
func (o Outbox) Identifier() pgx.Identifier { return strings.Split(o.Table, ".") }

// Preset names a set of columns that the relay knows.
type Preset string

// PresetRelay is the table that `relay migrate` makes.
const PresetRelay Preset = "relay"

// Columns renames columns of the preset; an empty name leaves the preset's.
type Columns struct {
	ID, TenantID, AggregateType, AggregateID, EventType, Payload, Headers, CreatedAt string
}

// Catalog lists files with event types besides the built-in ones. Paths in the configuration file are
// relative to that file.
type Catalog struct {
	Files []string
}

// Deliver governs the way from an event to its endpoints.
type Deliver struct {
	Timeout             time.Duration // whole attempt, from name resolution to the last byte of the answer
	MaxTimeout          time.Duration // longest that a subscription may have as its own; at least Timeout
	ConnectTimeout      time.Duration // name resolution and TCP, part of Timeout
	HeaderTimeout       time.Duration // end of the request to the headers of the answer; its default may be above Timeout, which then holds
	HandoverAfter       time.Duration // an attempt that lasts longer is parked; below Timeout
	DrainTimeout        time.Duration // at a stop, how long attempts in flight may still end
	Retry               Retry
	Breaker             Breaker
	DisableAfter        time.Duration // an endpoint that takes nothing for so long is disabled; 0: never
	DisableWarning      time.Duration // and warned of when it has taken nothing for so long; below DisableAfter
	Concurrency         int           // attempts at once, over all endpoints; 0: by the machine
	EndpointConcurrency int           // attempts at once to one endpoint
	Window              Window
	Record              Record
	Log                 LogPolicy
	LogRetention        time.Duration // delivery records older than this are dropped
}

// Retry says when an attempt that failed is made again.
type Retry struct {
	Schedule      []time.Duration // delay before each attempt, the first included; its length bounds the attempts
	Jitter        float64         // share of the delay by which it is varied, 0 to 1
	MaxRetryAfter time.Duration   // a longer Retry-After of an endpoint is cut to this
}

// Breaker says when an endpoint is given up for a while, and how often one delivery tries whether it works again.
type Breaker struct {
	Failures   int           // so many failed attempts in a row
	FirstProbe time.Duration // wait before the first try; it doubles with each that fails
	MaxProbe   time.Duration // up to this
}

// Window bounds the events in memory, by both measures.
type Window struct {
	Events int
	Bytes  Size
}

// Record bounds a recording batch: it is written when it is old or large enough.
type Record struct {
	Interval time.Duration
	Batch    int
}

// Replay governs how retained events are sent again.
type Replay struct {
	Rate int // rows a second that one replay begins, unless it is asked for another rate
}

// LogPolicy says which ended deliveries get a record that tenants can list.
type LogPolicy string

const (
	LogAll      LogPolicy = "all"
	LogFailures LogPolicy = "failures"
	LogNone     LogPolicy = "none"
)

// Egress changes which addresses may be dialed; by itself the rule is "public addresses only".
type Egress struct {
	Allow        []Target // let through besides; lifts the rule for ports too
	Deny         []Target // refused besides; wins over Allow
	RequireHTTPS bool
	HTTPTenants  []string // whose receivers need no TLS all the same
	HeadersAllow []string // names of headers, or their beginnings with a star, that tenants may set besides
	Ports        []uint16
	CAFile       string // certificates that are trusted besides the system's; "" for none
	Proxy        string // URL, perhaps with a password: print it with Redact only; "" for none
}

// Target is a range of addresses or the name of a host: exactly one of both is set.
type Target struct {
	Prefix netip.Prefix // masked, and IPv4 where the range is an IPv4 one mapped into IPv6
	Host   string       // lower case, without a trailing dot
}

func (t Target) String() string {
	if t.Host != "" {
		return t.Host
	}
	return t.Prefix.String()
}

// Strings returns the targets as they are written, which is what the dialer's policy takes.
func Strings(targets []Target) []string {
	out := make([]string, len(targets))
	for i, t := range targets {
		out[i] = t.String()
	}
	return out
}

// Secrets governs how the secrets of subscriptions are stored.
type Secrets struct {
	Key secrets.Secret // Tink keyset in JSON that they are sealed with; none: they are stored as they are
}

// HTTP holds the addresses that the relay listens on, each host:port.
type HTTP struct {
	Listen    string
	OpsListen string // "" leaves metrics, health and the operator API on Listen
	TLSCert   string // PEM file; "" speaks plain HTTP on Listen
	TLSKey    string // PEM file
}

// Auth says who may call the tenants' API besides the bearers of relay's own tokens.
type Auth struct{ JWT JWT }

// JWT says which tokens of an identity provider are taken: none, unless one of Secret, JWKSURL and JWKSPath is set.
type JWT struct {
	Secret      string // verifies HS256
	JWKSURL     string
	JWKSPath    string
	Issuer      string
	Audience    string
	TenantClaim string
	WriteScope  string // "" lets every token change things
}

// API bounds what callers of the tenants' API may cost; 0 takes a bound away.
type API struct {
	MaxConnections   int
	TokenRate        int // calls a second
	AddressRate      int // calls a second
	MaxSubscriptions int // of a tenant
	MaxReplay        int // rows of one replay
	WriteRate        int // changes a second of a tenant
	TrustedProxies   []Target
	ChangesRetention time.Duration
}

// Metrics governs what the metrics show.
type Metrics struct {
	TenantLabel int // so many tenants appear by name, the rest as "other"; 0 empties the label
}

// Log governs the relay's own log.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// LogFormat is the form of a log line.
type LogFormat string

const (
	LogFormatAuto LogFormat = "auto" // text on a terminal, else JSON
	LogFormatText LogFormat = "text"
	LogFormatJSON LogFormat = "json"
)

// Default returns the settings that hold when nothing is configured.
func Default() *Config {
	c := &Config{origins: make(map[string]Origin, len(settings))}
	for _, s := range settings {
		if s.def != "" {
			// The defaults are constants of this package and a test parses each of them.
			s.assign(c, s.split(s.def))
		}
		c.origins[s.key] = Origin{Source: SourceDefault}
	}
	return c
}

// File returns the path of the configuration file that was read, "" if none was.
func (c *Config) File() string { return c.file }

// Origin returns where the value of a key came from. An unknown key has the zero Origin.
func (c *Config) Origin(key string) Origin { return c.origins[key] }

// Require returns an *Error that names each of the keys that has no value.
func (c *Config) Require(keys ...string) error {
	var faults []Fault
	for _, key := range keys {
		s := settingOf[key]
		if s == nil || len(s.texts(c)) > 0 {
			continue
		}
		expected := s.expected + ", as " + EnvName(key) + ", --set " + key + "=... or in the configuration file"
		if key == keyDatabaseURL {
			expected = s.expected + ", as " + EnvName(key) + ", --database-url or in the configuration file"
		}
		faults = append(faults, Fault{File: c.file, Key: key, Got: "nothing", Expected: expected})
	}
	if len(faults) == 0 {
		return nil
	}
	return &Error{Faults: faults}
}
