package deliver

// Reason says why an attempt failed: a closed set, the same in tables, logs and
// metric labels. The empty Reason means success.
type Reason string

// The reasons.
const (
	ReasonTimeout  Reason = "timeout"
	ReasonDNS      Reason = "dns"
	ReasonConnect  Reason = "connect"
	ReasonTLS      Reason = "tls"
	ReasonBlocked  Reason = "blocked"
	ReasonRedirect Reason = "redirect"
	ReasonHTTP408  Reason = "http_408"
	ReasonHTTP429  Reason = "http_429"
	ReasonHTTP4xx  Reason = "http_4xx"
	ReasonHTTP5xx  Reason = "http_5xx"
	ReasonBody     Reason = "body"
	ReasonOther    Reason = "other"
)

// Status is the state of a delivery, as tenants see it.
type Status string

// The states. Pending ones stand in relay.parked, the others, which are final,
// in relay.deliveries.
const (
	StatusPending   Status = "PENDING"
	StatusDelivered Status = "DELIVERED"
	StatusDead      Status = "DEAD"
	StatusCancelled Status = "CANCELLED"
)
