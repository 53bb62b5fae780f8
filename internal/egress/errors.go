package egress

import (
	"errors"
	"fmt"
)

// ErrURL says that CheckURL refused a URL. What wraps it says why, without repeating the URL, which may hold
// credentials.
var ErrURL = errors.New("url refused")

// UnderscoreError says that the host of a URL has an underscore and is not one that egress.allow names.
type UnderscoreError struct{ Host string }

func (e *UnderscoreError) Error() string {
	return "its host has an underscore, which no public host name has"
}

// Rule names the part of the policy that refused an address. The set is closed.
type Rule string

// The rules, in the order in which they are applied.
const (
	RuleUnparsable Rule = "unparsable" // the address is not an IP address and a port
	RuleNetwork    Rule = "network"    // the network is not TCP
	RuleZone       Rule = "zone"       // the address has a zone
	RuleDeny       Rule = "deny"       // egress.deny names the address or the host
	RuleMetadata   Rule = "metadata"   // the address belongs to a cloud metadata service, or is link-local IPv4
	RuleAddress    Rule = "address"    // the address, or one inside of it, is not public
	RulePort       Rule = "port"       // the port is not on the list
	RuleOwn        Rule = "own"        // the relay itself, its database or its proxy listens there
)

// BlockedError says that policy refused an address. errors.As finds it in the errors of net and net/http. It
// names internal addresses: show it to operators, and to tenants only that the delivery was blocked.
type BlockedError struct {
	Host string // the host as the URL gave it
	Addr string // the address and port that would have been dialled
	Rule Rule
}

func (e *BlockedError) Error() string {
	text := fmt.Sprintf("egress to %s (host %s) blocked by rule %s", e.Addr, e.Host, e.Rule)
	switch e.Rule {
	case RuleAddress, RulePort:
		return text + "; an entry in egress.allow lets it through"
	case RuleMetadata:
		return text + "; only an entry in egress.allow for this single address lets it through"
	case RuleDeny:
		return text + "; see egress.deny"
	case RuleOwn:
		return text + "; the relay, its database or its proxy listens there, and no setting lets it through"
	}
	return text
}
