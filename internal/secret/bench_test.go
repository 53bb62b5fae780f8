package secret_test

import "testing"

// What each subscription costs at the start of a leader.
func BenchmarkKeyring_Open(b *testing.B) {
	k := mustRing(b, mustKeyset(b))
	stored := mustSeal(b, k, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "relay.subscriptions.secret 01a21045-e54f-72f6-866b-2636175a6f62")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open(stored, "relay.subscriptions.secret 01a21045-e54f-72f6-866b-2636175a6f62"); err != nil {
			b.Fatal(err)
		}
	}
}
