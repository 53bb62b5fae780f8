package deliver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/filter"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/secret"
)

// Orderings of a subscription.
const (
	OrderingKey  = "key"  // events of one key arrive in commit order
	OrderingNone = "none" // each event goes on its own
)

// What happens to a key when one of its deliveries is given up.
const (
	OnDeadRelease = "release" // the next goes on
	OnDeadHalt    = "halt"    // it waits until somebody retries or discards the dead one
)

// Subscription is a tenant's wish to get events at a URL.
type Subscription struct {
	ID          uuid.UUID     `json:"id"`
	TenantID    string        `json:"tenant_id"`
	URL         string        `json:"url"`
	Events      []string      `json:"events"`
	Secret      secret.Secret `json:"-"` // signs; X-Signature is of it alone
	Description string        `json:"description"`
	Ordering    string        `json:"ordering"`
	OnDead      string        `json:"on_dead"`
	// Format is what the bodies of its webhooks are; "" is FormatWebhook.
	Format string `json:"format"`
	// RateLimit is how many attempts a second it gets at most, 0.01 to 1000; 0: as many as it takes.
	RateLimit float64 `json:"rate_limit,omitempty"`
	// RetrySchedule is the wait before each attempt, as many attempts as items; none: that of the configuration.
	RetrySchedule []time.Duration `json:"-"`
	// Timeout bounds an attempt; 0: as long as the configuration says.
	Timeout Timeout `json:"timeout,omitzero"`
	// Filter is what the payload of an event has to be like; nil: anything will do. RulesSince is when it, or Events, last
	// changed; nil: not since the subscription was made.
	Filter         *filter.Filter `json:"filter,omitempty"`
	RulesSince     *time.Time     `json:"-"`
	Active         bool           `json:"active"`
	DisabledReason *string        `json:"disabled_reason"`
	// EnabledAt is when somebody last enabled it, active or not; nil: nobody has.
	EnabledAt *time.Time `json:"-"`
	CreatedAt time.Time  `json:"created_at"`
	UpdatedAt time.Time  `json:"updated_at"`

	// NextSecret signs beside Secret since it was staged, and PreviousSecret until it
	// expires; nil times: there is none. Locked is why one of the secrets cannot be
	// opened, or the filter not be read, in which case what there is for the subscription waits.
	NextSecret        secret.Secret `json:"-"`
	NextStagedAt      *time.Time    `json:"next_secret_staged_at"`
	PreviousSecret    secret.Secret `json:"-"`
	PreviousExpiresAt *time.Time    `json:"previous_secret_expires_at"`
	// Headers are what its webhooks have besides ours (see NewHeaders); their values often are secrets.
	Headers secret.Secret `json:"-"`
	// ClientCertificate is what its webhooks are posted with where the receiver asks for a certificate (see
	// NewClientCertificate), and Certificate what is shown of it; nil: none.
	ClientCertificate secret.Secret `json:"-"`
	Certificate       *Certificate  `json:"client_certificate"`
	Locked            error         `json:"-"`
	stored            storedSecrets
	badFilter         error // what is wrong with the stored filter: all events match then

	// FailingSince is when its endpoint first failed since it last took something,
	// and WarnedAt when the log warned that it will be disabled; nil: neither. The
	// Directory does not keep them: they change while the subscription stays.
	FailingSince *time.Time `json:"failing_since"`
	WarnedAt     *time.Time `json:"warned_at"`
}

// halts tells whether a delivery that is given up keeps its lane from going on.
// Without order there is nothing behind it that it could hold.
func (s *Subscription) halts() bool { return s.OnDead == OnDeadHalt && s.Ordering == OrderingKey }

// OwnTimeout is its own timeout, or the longest one where that is shorter: rows may be older than the setting. 0: it has none.
func (s *Subscription) OwnTimeout(most time.Duration) time.Duration {
	return min(time.Duration(s.Timeout), most)
}

// enabledAt is EnabledAt; the zero time for nil.
func (s *Subscription) enabledAt() time.Time {
	if s.EnabledAt == nil {
		return time.Time{}
	}
	return *s.EnabledAt
}

// SetFilter replaces the filter; nil takes it away.
func (s *Subscription) SetFilter(f *filter.Filter) { s.Filter, s.badFilter = f, nil }

// Since is since when the subscription wants the events that it wants now.
func (s *Subscription) Since() time.Time {
	if s.RulesSince != nil {
		return *s.RulesSince
	}
	return s.CreatedAt
}

// MaxWaits is how many waits a retry schedule may have.
const MaxWaits = 100

// CheckWait tells what is wrong with a wait of a retry schedule.
func CheckWait(d time.Duration) error {
	if d < 0 || d > 30*24*time.Hour || d%time.Millisecond != 0 {
		return errors.New("expected a time such as 0s, 500ms, 5s, 1m or 2h, up to 720h")
	}
	return nil
}

// Timeout is a time that JSON shows with its unit.
type Timeout time.Duration

func (t Timeout) String() string { return time.Duration(t).String() }

// MarshalText implements encoding.TextMarshaler.
func (t Timeout) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Bounds of a subscription's own timeout: a connection has to be made in the shortest, and the table takes no longer one.
const (
	minTimeout = 100 * time.Millisecond
	maxTimeout = time.Hour
)

// CheckTimeout tells what is wrong with a subscription's own timeout. The longest is most, unless that is 0.
func CheckTimeout(d Timeout, most time.Duration) error {
	if most == 0 || most > maxTimeout {
		most = maxTimeout
	}
	if d != 0 && (time.Duration(d) < minTimeout || time.Duration(d) > most || time.Duration(d)%time.Millisecond != 0) {
		return fmt.Errorf("expected a time such as 30s, from %s to %s, or 0s for the relay's own", minTimeout, most)
	}
	return nil
}

// CheckRate tells what is wrong with a rate limit.
func CheckRate(r float64) error {
	if r != 0 && !(r >= 0.01 && r <= 1000) {
		return errors.New("expected 0.01 to 1000, or 0 for no bound")
	}
	return nil
}

// CheckOnDead tells what is wrong with what happens to a key, in an ordering.
func CheckOnDead(onDead, ordering string) error {
	if onDead == OnDeadHalt && ordering == OrderingNone {
		return errors.New("without order nothing waits behind a delivery that was given up")
	}
	return nil
}

// CheckPattern tells what is wrong with an entry of Events. Valid are a whole
// event name, a name part with a star behind its last dot (`payment.*`), and a
// star alone. Names are case-sensitive.
func CheckPattern(p string) error {
	name := p
	if p == "*" {
		return nil
	}
	if rest, ok := strings.CutSuffix(p, ".*"); ok {
		name = rest
	}
	if name == "" || len(name) > 255 {
		return fmt.Errorf("event pattern %q: expected a name such as payment.received, or payment.*, or *", p)
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || strings.ContainsFunc(part, func(r rune) bool {
			return !(r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
		}) {
			return fmt.Errorf("event pattern %q: expected a name such as payment.received, or payment.*, or *", p)
		}
	}
	return nil
}

// Matches tells whether one of the subscription's patterns covers an event type.
func (s *Subscription) Matches(eventType string) bool {
	for _, p := range s.Events {
		if patternMatches(p, eventType) {
			return true
		}
	}
	return false
}

// What keeps an event from a subscription.
const (
	KeptOutByType   = "event"
	KeptOutByFilter = "filter"
)

// Wants tells whether the subscription gets such an event, and if not what keeps it out: its type, or the filter, of which it
// names the first condition that does not hold by a pointer into it.
func (s *Subscription) Wants(e *outbox.Event) (wanted bool, keptOut, pointer string) {
	if !s.Matches(e.Type) {
		return false, KeptOutByType, ""
	}
	if failed, ok := s.Filter.Explain(filter.NewPayload(e.Payload)); !ok {
		return false, KeptOutByFilter, failed
	}
	return true, "", ""
}

// Unmatched returns the patterns that cover none of some event types.
func Unmatched(patterns []string, types []outbox.EventType) []string {
	var out []string
	for _, p := range patterns {
		if !slices.ContainsFunc(types, func(t outbox.EventType) bool { return patternMatches(p, t.Name) }) {
			out = append(out, p)
		}
	}
	return out
}

func patternMatches(pattern, eventType string) bool {
	if pattern == "*" || pattern == eventType {
		return true
	}
	prefix, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasSuffix(prefix, ".") && strings.HasPrefix(eventType, prefix) && len(eventType) > len(prefix)
}
