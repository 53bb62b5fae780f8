package egress

import "testing"

func TestHeaderAllowed_CoversNamesAndPrefixesAndNeverWhatIsReserved(t *testing.T) {
	t.Parallel()
	entries := []string{"CF-Access-*", "Ocp-Apim-*", "apikey", "X-Webhook-Secret", "X-*"}
	for name, want := range map[string]bool{"Cf-Access-Client-Id": true, "cf-access-client-secret": true, "Cf-Access-": false, "Cf-Accesses": false,
		"Ocp-Apim-Subscription-Key": true, "Apikey": true, "Apikey-2": false, "X-Webhook-Secret": true, "X-Forwarded-For": true, "X-Signature": false,
		"X-Event-Type": false, "X-Relay-Attempt": false, "Host": false, "Content-Type": false, "Webhook-Id": false, "Accept": false} {
		if got := HeaderAllowed(entries, name); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}

func TestCheckHeaderEntry_RefusesWhatWouldHaveNoEffect(t *testing.T) {
	t.Parallel()
	for entry, good := range map[string]bool{"apikey": true, "CF-Access-*": true, "X-Webhook-Secret": true, "Cookie": true, "*": false, "": false, "CF*": false,
		"Content-Type": false, "content-*": false, "Host": false, "webhook-*": false, "Proxy-Authorization": false, "a b": false, "a:b": false, "X-Signature": false,
		"Relay-Attempt": false, "User-Agent": false} {
		if err := CheckHeaderEntry(entry); (err == nil) != good {
			t.Errorf("%q: %v", entry, err)
		}
	}
}
