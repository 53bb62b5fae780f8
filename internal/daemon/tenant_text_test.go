package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/egress"
)

func TestForTenants_TellsNothingThatOnlyAnOperatorCanDo(t *testing.T) {
	t.Parallel()
	for _, rule := range []egress.Rule{egress.RuleAddress, egress.RulePort, egress.RuleMetadata, egress.RuleOwn, egress.RuleDeny} {
		text := forTenants(&egress.BlockedError{Host: "inner.example", Addr: "10.1.2.3:80", Rule: rule}).Error()
		for _, word := range []string{"egress", "10.1.2.3", "blocked by"} {
			if strings.Contains(text, word) {
				t.Errorf("%s: the tenant is told %q", rule, text)
			}
		}
	}
	other := errors.New("the URL has no host")
	if got := forTenants(other); !errors.Is(got, other) {
		t.Errorf("another error became %v", got)
	}
	if forTenants(nil) != nil {
		t.Error("no error became one")
	}
}
