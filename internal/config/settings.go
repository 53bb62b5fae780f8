package config

import (
	"log/slog"
	"time"

	secrets "github.com/outbox-relay/relay/internal/secret"
)

// keyDatabaseURL has a flag of its own, and is the default of keyReplicationURL.
const (
	keyDatabaseURL    = "database.url"
	keyReplicationURL = "database.replication_url"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// settings are all keys, in the order in which they are printed and stand in configs/relay.yaml.
var settings = []setting{
	one("version", "1", "Version of the file's format.",
		integer(1, 1), func(c *Config) *int { return &c.Version }),

	secret(one(keyDatabaseURL, "", "PostgreSQL for ordinary connections; a pooler may stand between.",
		connString(), func(c *Config) *string { return &c.Database.URL })),
	secret(one(keyReplicationURL, "", "PostgreSQL for the replication stream, direct; database.url when not set.",
		connString(), func(c *Config) *string { return &c.Database.ReplicationURL })),
	one("database.max_connections", "8", "Upper bound of the pool behind database.url.",
		integer(2, 1000), func(c *Config) *int { return &c.Database.MaxConnections }),
	one("database.allow_plaintext", "false", "Let sslmode=disable lead to another machine, and the password with it.",
		boolean(), func(c *Config) *bool { return &c.Database.AllowPlaintext }),

	one("cdc.slot", "relay", "Replication slot.",
		slotName(), func(c *Config) *string { return &c.CDC.Slot }),
	one("cdc.publication", "relay", "Publication of the outbox.",
		identifier("a publication"), func(c *Config) *string { return &c.CDC.Publication }),
	one("cdc.recovery", "automatic", "Whether the rescue after the loss of the slot starts by itself.",
		oneOf(RecoveryAutomatic, RecoveryManual), func(c *Config) *Recovery { return &c.CDC.Recovery }),
	one("cdc.failover", "true", "Create the slot with failover on PostgreSQL 17 and later.",
		boolean(), func(c *Config) *bool { return &c.CDC.Failover }),
	one("cdc.status_interval", "10s", "Longest time between two status updates to PostgreSQL.",
		duration(100*time.Millisecond, time.Minute), func(c *Config) *time.Duration { return &c.CDC.StatusInterval }),
	one("cdc.silence_timeout", "30s", "Without a byte from PostgreSQL for so long, the connection is given up.",
		duration(time.Second, time.Hour), func(c *Config) *time.Duration { return &c.CDC.SilenceTimeout }),
	one("cdc.progress_interval", "10s", "How often progress is written while the outbox is idle.",
		duration(100*time.Millisecond, time.Hour), func(c *Config) *time.Duration { return &c.CDC.ProgressInterval }),
	one("cdc.marker_interval", "5s", "How often the audit looks at what came since; twelve times as long while the outbox is idle.",
		duration(100*time.Millisecond, time.Hour), func(c *Config) *time.Duration { return &c.CDC.MarkerInterval }),
	one("cdc.wal_budget", "", "WAL that the slot may hold before deliveries are parked early; 80 % of max_slot_wal_keep_size when not set.",
		size(64*KiB, 64*TiB), func(c *Config) *Size { return &c.CDC.WALBudget }),

	one("outbox.table", "outbox.events", "Table of the events.",
		tableName(), func(c *Config) *string { return &c.Outbox.Table }),
	one("outbox.preset", "relay", "Set of columns that the table has.",
		oneOf(PresetRelay), func(c *Config) *Preset { return &c.Outbox.Preset }),
	column("id", func(c *Columns) *string { return &c.ID }),
	column("tenant_id", func(c *Columns) *string { return &c.TenantID }),
	column("aggregate_type", func(c *Columns) *string { return &c.AggregateType }),
	column("aggregate_id", func(c *Columns) *string { return &c.AggregateID }),
	column("event_type", func(c *Columns) *string { return &c.EventType }),
	column("payload", func(c *Columns) *string { return &c.Payload }),
	column("headers", func(c *Columns) *string { return &c.Headers }),
	column("created_at", func(c *Columns) *string { return &c.CreatedAt }),
	one("outbox.retention", "168h", "Partitions that are settled and older than this are dropped.",
		duration(time.Hour, 10*year), func(c *Config) *time.Duration { return &c.Outbox.Retention }),
	one("outbox.partition_interval", "24h", "Time that one partition covers.",
		duration(time.Hour, 31*day), func(c *Config) *time.Duration { return &c.Outbox.PartitionInterval }),
	one("outbox.partitions_ahead", "3", "Partitions that exist before they are needed.",
		integer(1, 100), func(c *Config) *int { return &c.Outbox.PartitionsAhead }),
	one("outbox.max_payload", "10MiB", "A row with a larger payload is quarantined.",
		size(KiB, GiB), func(c *Config) *Size { return &c.Outbox.MaxPayload }),
	one("outbox.quarantine_share", "0.1", "When more than this share of the rows of five minutes is quarantined, the relay is degraded; 1 for never.",
		share(), func(c *Config) *float64 { return &c.Outbox.QuarantineShare }),

	paths(many("catalog.files", "", "Files with more event types.", 1000,
		filePath(), func(c *Config) *[]string { return &c.Catalog.Files })),

	one("deliver.timeout", "15s", "Time for one attempt, from name resolution to the end of the answer.",
		duration(10*time.Millisecond, 30*time.Second), func(c *Config) *time.Duration { return &c.Deliver.Timeout }),
	one("deliver.max_timeout", "1m30s", "Longest timeout that a subscription may have as its own, in place of deliver.timeout and deliver.header_timeout.",
		duration(10*time.Millisecond, 10*time.Minute), func(c *Config) *time.Duration { return &c.Deliver.MaxTimeout }),
	one("deliver.connect_timeout", "3s", "Time for name resolution and TCP, part of deliver.timeout.",
		duration(10*time.Millisecond, 30*time.Second), func(c *Config) *time.Duration { return &c.Deliver.ConnectTimeout }),
	one("deliver.header_timeout", "10s", "Time from the end of the request to the headers of the answer; deliver.timeout where that is shorter.",
		duration(10*time.Millisecond, 30*time.Second), func(c *Config) *time.Duration { return &c.Deliver.HeaderTimeout }),
	one("deliver.handover_after", "2s", "An attempt that lasts longer is parked, so that it holds nothing up.",
		duration(time.Millisecond, 30*time.Second), func(c *Config) *time.Duration { return &c.Deliver.HandoverAfter }),
	one("deliver.drain_timeout", "20s", "Time that attempts in flight have at a stop.",
		duration(0, 10*time.Minute), func(c *Config) *time.Duration { return &c.Deliver.DrainTimeout }),
	many("deliver.retry.schedule", "0s,5s,1m,5m,30m,2h,5h,10h,14h,20h,24h",
		"Delay before each attempt, the first included; as many attempts as items.", 100,
		duration(0, 30*day), func(c *Config) *[]time.Duration { return &c.Deliver.Retry.Schedule }),
	one("deliver.retry.jitter", "0.2", "Share of the delay by which it is varied.",
		share(), func(c *Config) *float64 { return &c.Deliver.Retry.Jitter }),
	one("deliver.retry.max_retry_after", "24h", "A longer Retry-After is cut to this.",
		duration(0, 30*day), func(c *Config) *time.Duration { return &c.Deliver.Retry.MaxRetryAfter }),
	one("deliver.breaker.failures", "5", "Failed attempts in a row after which an endpoint is given up for a while.",
		integer(1, 1000), func(c *Config) *int { return &c.Deliver.Breaker.Failures }),
	one("deliver.breaker.first_probe", "1s", "Wait until one delivery tries whether it works again; doubles each time.",
		duration(time.Millisecond, time.Hour), func(c *Config) *time.Duration { return &c.Deliver.Breaker.FirstProbe }),
	one("deliver.breaker.max_probe", "5m", "Longest wait between two such tries.",
		duration(time.Millisecond, day), func(c *Config) *time.Duration { return &c.Deliver.Breaker.MaxProbe }),
	one("deliver.disable_after", "120h", "An endpoint that has taken nothing for so long is disabled; 0s never does that.",
		duration(0, year), func(c *Config) *time.Duration { return &c.Deliver.DisableAfter }),
	one("deliver.disable_warning", "60h", "When it has taken nothing for so long, a warning is logged.",
		duration(0, year), func(c *Config) *time.Duration { return &c.Deliver.DisableWarning }),
	one("deliver.concurrency", "0", "Attempts at once, over all endpoints; 0 lets the machine decide.",
		integer(0, 100_000), func(c *Config) *int { return &c.Deliver.Concurrency }),
	one("deliver.endpoint_concurrency", "8", "Attempts at once to one endpoint.",
		integer(1, 10_000), func(c *Config) *int { return &c.Deliver.EndpointConcurrency }),
	one("deliver.window.events", "10000", "Events in memory; what comes besides is parked.",
		integer(1, 10_000_000), func(c *Config) *int { return &c.Deliver.Window.Events }),
	one("deliver.window.bytes", "128MiB", "Bytes of events in memory; what comes besides is parked.",
		size(64*KiB, TiB), func(c *Config) *Size { return &c.Deliver.Window.Bytes }),
	one("deliver.record.interval", "200ms", "Longest time until an outcome is recorded.",
		duration(time.Millisecond, 10*time.Second), func(c *Config) *time.Duration { return &c.Deliver.Record.Interval }),
	one("deliver.record.batch", "500", "Outcomes that are recorded without waiting for the interval.",
		integer(1, 10_000), func(c *Config) *int { return &c.Deliver.Record.Batch }),
	one("deliver.log", "all", "Which ended deliveries tenants can list.",
		oneOf(LogAll, LogFailures, LogNone), func(c *Config) *LogPolicy { return &c.Deliver.Log }),
	one("deliver.log_retention", "720h", "Records of deliveries that ended longer ago than this are dropped.",
		duration(time.Hour, 10*year), func(c *Config) *time.Duration { return &c.Deliver.LogRetention }),

	one("replay.rate", "100", "Rows a second that a replay begins, unless it is asked for another rate.",
		integer(1, 100_000), func(c *Config) *int { return &c.Replay.Rate }),

	many("egress.allow", "", "Addresses and hosts let through besides the public ones.", 1000,
		target(), func(c *Config) *[]Target { return &c.Egress.Allow }),
	many("egress.deny", "", "Addresses and hosts refused besides the special ones; wins over egress.allow.", 1000,
		target(), func(c *Config) *[]Target { return &c.Egress.Deny }),
	one("egress.require_https", "true", "Refuse endpoints without TLS.",
		boolean(), func(c *Config) *bool { return &c.Egress.RequireHTTPS }),
	many("egress.http_tenants", "", "Tenants whose endpoints may be without TLS although egress.require_https is true.", 1000,
		tenant(), func(c *Config) *[]string { return &c.Egress.HTTPTenants }),
	many("egress.headers_allow", "", "Names of headers, or their beginnings with a star, that subscriptions may have besides those of the list.", 100,
		headerEntry(), func(c *Config) *[]string { return &c.Egress.HeadersAllow }),
	many("egress.ports", "80,443", "Ports that may be dialed; what egress.allow lets through has no rule for ports.", 1000,
		integer[uint16](1, 65535), func(c *Config) *[]uint16 { return &c.Egress.Ports }),
	paths(one("egress.ca_file", "", "Certificates of authorities that are trusted besides the system's, PEM.",
		filePath(), func(c *Config) *string { return &c.Egress.CAFile })),
	secret(one("egress.proxy", "", "Proxy that everything goes through; it must know CONNECT.",
		proxyURL(), func(c *Config) *string { return &c.Egress.Proxy })),

	secret(one("secrets.key", "", "Keyset that the secrets of subscriptions are sealed with in the database; without it they stand there as they are.",
		keyset(), func(c *Config) *secrets.Secret { return &c.Secrets.Key })),

	one("http.listen", "127.0.0.1:8000", "Address of the tenant API, health and metrics.",
		listenAddress(), func(c *Config) *string { return &c.HTTP.Listen }),
	one("http.ops_listen", "", "When set, address that metrics, health and operator API move to.",
		listenAddress(), func(c *Config) *string { return &c.HTTP.OpsListen }),

	paths(one("http.tls_cert", "", "Certificate chain, a PEM file, with which http.listen speaks TLS; read again when it changes.",
		filePath(), func(c *Config) *string { return &c.HTTP.TLSCert })),
	paths(one("http.tls_key", "", "Private key of http.tls_cert, a PEM file.",
		filePath(), func(c *Config) *string { return &c.HTTP.TLSKey })),

	one("api.max_connections", "4", "Connections to PostgreSQL that the tenant API has for itself.",
		integer(1, 1000), func(c *Config) *int { return &c.API.MaxConnections }),
	one("api.token_rate", "50", "Calls a second with one token, twice as many at once; 0 is no limit.",
		integer(0, 100_000), func(c *Config) *int { return &c.API.TokenRate }),
	one("api.address_rate", "200", "Calls a second from one address, twice as many at once; 0 is no limit.",
		integer(0, 1_000_000), func(c *Config) *int { return &c.API.AddressRate }),
	one("api.write_rate", "10", "Changes a second by one tenant, twice as many at once; 0 is no limit.",
		integer(0, 100_000), func(c *Config) *int { return &c.API.WriteRate }),
	many("api.trusted_proxies", "", "Proxies whose X-Forwarded-For says where a call comes from.", 100,
		network(), func(c *Config) *[]Target { return &c.API.TrustedProxies }),
	one("api.changes_retention", "8760h", "What tenants changed is on record for so long.",
		duration(time.Hour, 100*year), func(c *Config) *time.Duration { return &c.API.ChangesRetention }),
	one("api.max_subscriptions", "100", "Subscriptions that a tenant may make through the API; 0 is no limit.",
		integer(0, 1_000_000), func(c *Config) *int { return &c.API.MaxSubscriptions }),
	one("api.max_replay", "10000", "Rows that one replay which a tenant asks for may send; 0 is no limit.",
		integer(0, 1_000_000_000), func(c *Config) *int { return &c.API.MaxReplay }),

	secret(one("auth.jwt.secret", "", "Key with which the identity provider signs JWTs (HS256).",
		text("a text"), func(c *Config) *string { return &c.Auth.JWT.Secret })),
	one("auth.jwt.jwks_url", "", "Where the identity provider's public keys are; dialed under the egress rules.",
		httpsURL(), func(c *Config) *string { return &c.Auth.JWT.JWKSURL }),
	paths(one("auth.jwt.jwks_path", "", "File with the identity provider's public keys, a JWK set.",
		filePath(), func(c *Config) *string { return &c.Auth.JWT.JWKSPath })),
	one("auth.jwt.issuer", "", "Issuer (claim iss) that a JWT must have.",
		text("the issuer of JWTs"), func(c *Config) *string { return &c.Auth.JWT.Issuer }),
	one("auth.jwt.audience", "", "Audience (claim aud) that a JWT must have.",
		text("an audience of JWTs"), func(c *Config) *string { return &c.Auth.JWT.Audience }),
	one("auth.jwt.tenant_claim", "tenant_id", "Claim that names the tenant.",
		text("the name of a claim"), func(c *Config) *string { return &c.Auth.JWT.TenantClaim }),
	one("auth.jwt.write_scope", "", "Scope without which a JWT may only look; every JWT may change things when not set.",
		text("a scope"), func(c *Config) *string { return &c.Auth.JWT.WriteScope }),

	one("metrics.tenant_label", "100", "Tenants that metrics name, the rest are \"other\"; 0 empties the label.",
		integer(0, 100_000), func(c *Config) *int { return &c.Metrics.TenantLabel }),

	one("log.level", "info", "Lowest level that is logged.",
		level(), func(c *Config) *slog.Level { return &c.Log.Level }),
	one("log.format", "auto", "Form of a log line; auto is text on a terminal, else json.",
		oneOf(LogFormatAuto, LogFormatText, LogFormatJSON), func(c *Config) *LogFormat { return &c.Log.Format }),
}

// sectionDocs say what a section is about, for the schema.
var sectionDocs = map[string]string{
	"database":        "How PostgreSQL is reached.",
	"cdc":             "The replication stream.",
	"outbox":          "The table that the events come from.",
	"outbox.columns":  "Columns of the table that are named otherwise than in the preset.",
	"catalog":         "More event types.",
	"deliver":         "The way from an event to its endpoints.",
	"deliver.retry":   "When an attempt that failed is made again.",
	"deliver.breaker": "When an endpoint is given up for a while.",
	"deliver.window":  "Bounds of the events in memory.",
	"deliver.record":  "Bounds of a recording batch.",
	"replay":          "How retained events are sent again.",
	"egress":          "Which addresses may be dialed.",
	"secrets":         "How the secrets of subscriptions are stored.",
	"http":            "Addresses that the relay listens on.",
	"auth":            "Who may call the tenant API besides the bearers of relay's own tokens.",
	"auth.jwt":        "Tokens of an identity provider.",
	"api":             "What callers of the tenant API may cost.",
	"metrics":         "What the metrics show.",
	"log":             "The relay's own log.",
}

func secret(s setting) setting {
	s.secret = true
	return s
}

func paths(s setting) setting {
	s.paths = true
	return s
}

func column(name string, at func(*Columns) *string) setting {
	return one("outbox.columns."+name, "", "Column for "+name+"; that of the preset when not set.",
		identifier("a column"), func(c *Config) *string { return at(&c.Outbox.Columns) })
}
