package deliver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
)

const (
	secondSecret = "whsec_c2Vjb25kIHNlY3JldCBvZiB0aGUgdGVzdHMh"
	thirdSecret  = "a third secret, at least 24 bytes"
)

func newKeyset(t testing.TB) *secret.Keyset {
	t.Helper()
	set, err := secret.GenerateKeyset()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func keyring(t testing.TB, set *secret.Keyset) *secret.Keyring {
	t.Helper()
	text, err := set.Text()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := secret.NewKeyring(text)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// add stores a subscription as the command line does.
func (w *world) add(host string, keys *secret.Keyring) uuid.UUID {
	w.t.Helper()
	sub := NewSubscription(testTenant, "http://"+host+"/", []string{"*"}, testSecret)
	if err := (Subscriptions{DB: w.pool, Keys: keys}).Add(context.Background(), sub); err != nil {
		w.t.Fatal(err)
	}
	if sub.Secret.Reveal() != testSecret || sub.Locked != nil {
		w.t.Fatalf("added as %+v", sub)
	}
	return sub.ID
}

// signs tells which secrets a signer signs with, in webhook-signature and in X-Signature.
func signs(t testing.TB, s *signature.Signer) string {
	t.Helper()
	h := http.Header{}
	now := time.Now()
	s.Headers(h, "evt", now.Unix(), []byte("{}"))
	var out []string
	for name, text := range map[string]string{"1": testSecret, "2": secondSecret, "3": thirdSecret} {
		alone, err := signature.NewSigner(text)
		if err != nil {
			t.Fatal(err)
		}
		if alone.Verify(h, []byte("{}"), now, signature.Tolerance) == nil {
			out = append(out, name)
		}
		if alone.VerifyLegacy(h, []byte("{}")) == nil {
			out = append(out, "X"+name)
		}
	}
	// In a fixed order.
	var sorted []string
	for _, name := range []string{"1", "2", "3", "X1", "X2", "X3"} {
		for _, o := range out {
			if o == name {
				sorted = append(sorted, o)
			}
		}
	}
	return strings.Join(sorted, " ")
}

func TestSubscriptions_AreStoredSealedAndReadOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keys := keyring(t, newKeyset(t))
	id := w.add("a.test", keys)
	w.subscribe("b.test")
	if text := w.text("SELECT secret FROM relay.subscriptions WHERE id = $1", id); !strings.HasPrefix(text, "sealed:") {
		t.Errorf("stored as %q", text)
	}
	store := Subscriptions{DB: w.pool, Keys: keys}
	list, err := store.List(t.Context(), "")
	if err != nil || len(list) != 2 {
		t.Fatal(len(list), err)
	}
	for _, sub := range list {
		key, sealed := sub.SecretKey()
		if sub.Locked != nil || sub.Secret.Reveal() != testSecret || sealed != (sub.ID == id) || sealed && key != keys.Primary() {
			t.Errorf("read as %+v, sealed %v with %d", sub, sealed, key)
		}
	}
	w.keys = keys
	l := w.lead()
	es := l.send("x", "y")
	w.arriveInKeyOrder("a.test", es...)
	w.arriveInKeyOrder("b.test", es...)
}

func TestSubscriptions_ASealedSecretOpensInItsOwnRowAndColumnOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keys := keyring(t, newKeyset(t))
	from, to := w.add("a.test", keys), w.add("b.test", keys)
	store := Subscriptions{DB: w.pool, Keys: keys}
	w.exec("UPDATE relay.subscriptions SET secret = (SELECT secret FROM relay.subscriptions WHERE id = $1) WHERE id = $2", from, to)
	if sub, err := store.Get(t.Context(), to); err != nil || !errors.Is(sub.Locked, secret.ErrLocked) || !sub.Secret.IsZero() {
		t.Errorf("of another row: %+v, %v", sub, err)
	}
	w.exec("UPDATE relay.subscriptions SET next_secret = secret, next_secret_staged_at = now() WHERE id = $1", from)
	if sub, err := store.Get(t.Context(), from); err != nil || !errors.Is(sub.Locked, secret.ErrLocked) || !sub.NextSecret.IsZero() {
		t.Errorf("of another column: %+v, %v", sub, err)
	}
	if _, err := store.PromoteSecret(t.Context(), from, Promotion{Keep: time.Hour}); !errors.Is(err, secret.ErrLocked) {
		t.Errorf("promoted: %v", err)
	}
}

// What the relay cannot sign waits. It is no failure of the endpoint, and nothing of it is lost.
func TestDispatcher_KeepsEventsOfASecretThatItCannotOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	set := newKeyset(t)
	keys := keyring(t, set)
	locked := w.add("a.test", keys)
	w.subscribe("b.test")
	w.keys = keyring(t, newKeyset(t)) // another one
	l := w.lead()
	es := l.send(keysOf("x", 12)...)
	w.arriveInKeyOrder("b.test", es...)
	l.quiet()
	l.mustHold(locked, true)
	if n := w.sink.attempts("a.test"); n != 0 || w.parked() != 12 || w.ended(StatusDead) != 0 || l.dir.Locked() != 1 {
		t.Fatalf("%d attempts, %d parked, %d locked", n, w.parked(), l.dir.Locked())
	}
	if n := w.count("SELECT count(*) FROM relay.parked WHERE attempts > 0"); n != 0 {
		t.Errorf("%d rows have spent attempts", n)
	}
	l.stop(time.Second)

	l = w.lead() // also one that finds them
	l.quietParked(12)
	l.mustHold(locked, true)
	if _, err := l.dir.Rekey(nil); err != nil {
		t.Fatal(err)
	}
	changed, err := l.dir.Rekey(keys)
	if err != nil || len(changed) != 1 || changed[0].id != locked || l.dir.Locked() != 0 {
		t.Fatalf("%d changed, %v", len(changed), err)
	}
	l.p.Changed(changed[0])
	l.mustHold(locked, false)
	w.arriveInKeyOrder("a.test", es...)
	eventually(t, "it is recorded", func() bool { return w.parked() == 0 })

	// A row that was spoilt while the relay runs, and mended.
	w.exec("UPDATE relay.subscriptions SET secret = overlay(secret placing 'AAAA' from 20) WHERE id = $1", locked)
	l.refresh(locked)
	more := l.send("y", "z")
	w.arriveInKeyOrder("b.test", append(es, more...)...)
	l.mustHold(locked, true)
	l.quietParked(2)
	w.exec("UPDATE relay.subscriptions SET secret = $2 WHERE id = $1", locked, testSecret)
	l.refresh(locked)
	eventually(t, "what waited arrives", func() bool { return len(w.sink.took("a.test")) == 14 })
	if n := w.ended(StatusDead); n != 0 {
		t.Errorf("%d are dead", n)
	}
}

func (w *world) arriveInKeyOrder(host string, es ...*entry) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d events at %s", len(es), host), func() bool { return len(w.sink.took(host)) >= len(es) })
	w.inKeyOrder(host, es...)
}

// mustHold checks that nothing is even begun for an endpoint, or that it is.
func (l *leader) mustHold(id uuid.UUID, want bool) {
	l.t.Helper()
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if got := l.dir.Get(id).lanes.disabled; got != want {
		l.t.Errorf("held: %v, want %v", got, want)
	}
}

func (l *leader) quietParked(n int) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%d are parked", n), func() bool { return l.parked() == n })
}

func keysOf(name string, n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprint(name, i%4))
	}
	return out
}

func TestDirectory_RefusesKeysThatOpenLess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	set := newKeyset(t)
	keys := keyring(t, set)
	id := w.add("a.test", keys)
	d := NewDirectory(anyURL, nil, keys)
	if _, _, err := d.Load(t.Context(), w.pool); err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]*secret.Keyring{"none": nil, "another": keyring(t, newKeyset(t))} {
		if changed, err := d.Rekey(other); !errors.Is(err, secret.ErrLocked) || len(changed) != 0 || !strings.Contains(err.Error(), id.String()) {
			t.Errorf("%s: %d changed, %v", name, len(changed), err)
		}
	}
	if d.Locked() != 0 {
		t.Error("a refused keyset locked something")
	}
	next, _, err := set.Add(true)
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := d.Rekey(keyring(t, next)); err != nil || len(changed) != 0 {
		t.Errorf("with one key more: %d changed, %v", len(changed), err)
	}
}

// An endpoint keeps its breaker, its pace and its connections when its secret is sealed anew.
func TestSeal_IsNoChangeToARelayThatRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	set := newKeyset(t)
	first := keyring(t, set)
	next, _, err := set.Add(true)
	if err != nil {
		t.Fatal(err)
	}
	second := keyring(t, next)
	const many = 430 // more than two pages
	for i := range many {
		w.subscribe(fmt.Sprintf("h%d.test", i))
	}
	rotated := w.add("r.test", nil)
	store := Subscriptions{DB: w.pool, Keys: first}
	if _, err := store.StageSecret(ctx, rotated, secret.New(secondSecret)); err != nil {
		t.Fatal(err)
	}
	before := w.text("SELECT string_agg(updated_at::text, ' ' ORDER BY id) FROM relay.subscriptions")
	d := NewDirectory(anyURL, nil, second)
	if _, _, err := d.Load(ctx, w.pool); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		keys            *secret.Keyring
		sealed, already int
	}{{first, many + 1, 0}, {first, 0, many + 1}, {second, many + 1, 0}, {second, 0, many + 1}} {
		r, err := Subscriptions{DB: w.pool, Keys: c.keys}.Seal(ctx)
		if err != nil || r.Sealed != c.sealed || r.Already != c.already || r.Moved != 0 || len(r.Locked) != 0 || r.Key != c.keys.Primary() {
			t.Errorf("got %+v, %v; want %d sealed, %d already", r, err, c.sealed, c.already)
		}
		if changed, removed, err := d.Load(ctx, w.pool); err != nil || len(changed)+len(removed) != 0 {
			t.Errorf("%d endpoints changed, %v", len(changed), err)
		}
	}
	if changed, err := d.Rekey(keyring(t, next)); err != nil || len(changed) != 0 {
		t.Errorf("the directory does not hold what was sealed last: %d changed, %v", len(changed), err)
	}
	if after := w.text("SELECT string_agg(updated_at::text, ' ' ORDER BY id) FROM relay.subscriptions"); after != before {
		t.Error("sealing is a change of the subscription")
	}
	if n := w.count("SELECT count(*) FROM relay.subscriptions WHERE secret NOT LIKE 'sealed:%' OR next_secret NOT LIKE 'sealed:%'"); n != 0 {
		t.Errorf("%d are not sealed", n)
	}
	used, err := store.KeysInUse(ctx)
	if err != nil || len(used) != 1 || used[second.Primary()] != many+2 {
		t.Errorf("keys in use: %v, %v", used, err)
	}
	if sub, err := (Subscriptions{DB: w.pool, Keys: second}).Get(ctx, rotated); err != nil || sub.NextSecret.Reveal() != secondSecret || sub.Locked != nil {
		t.Errorf("read as %+v, %v", sub, err)
	}
}

func TestSeal_LeavesWhatItCannotOpenAndGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.add("a.test", keyring(t, newKeyset(t)))
	w.subscribe("b.test")
	before := w.text("SELECT secret FROM relay.subscriptions WHERE id = $1", other)
	r, err := Subscriptions{DB: w.pool, Keys: keyring(t, newKeyset(t))}.Seal(t.Context())
	if err != nil || r.Sealed != 1 || len(r.Locked) != 1 || r.Locked[0].SubscriptionID != other {
		t.Errorf("got %+v, %v", r, err)
	}
	if after := w.text("SELECT secret FROM relay.subscriptions WHERE id = $1", other); after != before {
		t.Error("what cannot be opened was written over")
	}
	if _, err := (Subscriptions{DB: w.pool}).Seal(t.Context()); err == nil || !strings.Contains(err.Error(), "secrets.key_file") {
		t.Errorf("without a key: %v", err)
	}
}

// rotations runs the phases on a world, with and without keys.
func TestSubscriptions_RotateTheirSecretInPhases(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]*secret.Keyring{"sealed": keyring(t, newKeyset(t)), "stored as it is": nil} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ctx := t.Context()
			id := w.add("a.test", keys)
			store := Subscriptions{DB: w.pool, Keys: keys}
			d := NewDirectory(anyURL, nil, keys)
			if _, _, err := d.Load(ctx, w.pool); err != nil {
				t.Fatal(err)
			}
			is := func(want string) {
				t.Helper()
				if _, _, err := d.Refresh(ctx, w.pool, id); err != nil {
					t.Fatal(err)
				}
				spec := d.Get(id).spec.Load()
				if got := signs(t, spec.signerAt(time.Now())); spec.fault != "" || got != want {
					t.Errorf("signs with %q, want %q (%s)", got, want, spec.fault)
				}
			}
			step := func(sub *Subscription, err error) *Subscription {
				t.Helper()
				if err != nil || sub == nil || sub.Locked != nil {
					t.Fatalf("got %+v, %v", sub, err)
				}
				return sub
			}
			refused := func(want error) func(*Subscription, error) {
				return func(_ *Subscription, err error) {
					t.Helper()
					if !errors.Is(err, want) || strings.Contains(err.Error(), secondSecret) || !strings.Contains(err.Error(), id.String()) {
						t.Errorf("got %v, want %v", err, want)
					}
				}
			}
			is("1 X1")
			refused(ErrNoSecretStaged)(store.PromoteSecret(ctx, id, Promotion{Keep: time.Hour}))
			refused(ErrNoSecretStaged)(store.UnstageSecret(ctx, id))
			refused(ErrNoSecretToExpire)(store.ExpireSecret(ctx, id))
			refused(ErrSecretUnchanged)(store.StageSecret(ctx, id, secret.New(testSecret)))
			refused(signature.ErrSecret)(store.StageSecret(ctx, id, secret.New("whsec_?")))

			sub := step(store.StageSecret(ctx, id, secret.New(thirdSecret)))
			is("1 3 X1")
			refused(ErrSecretStaged)(store.StageSecret(ctx, id, secret.New(secondSecret)))
			refused(ErrNoSecretToExpire)(store.ExpireSecret(ctx, id))
			other := sub.NextStagedAt
			step(store.UnstageSecret(ctx, id))
			is("1 X1")

			sub = step(store.StageSecret(ctx, id, secret.New(secondSecret)))
			is("1 2 X1")
			refused(ErrOtherStaged)(store.PromoteSecret(ctx, id, Promotion{Keep: time.Hour, StagedAt: other}))
			sub = step(store.PromoteSecret(ctx, id, Promotion{Keep: time.Hour, StagedAt: sub.NextStagedAt}))
			is("1 2 X2")
			if left := time.Until(*sub.PreviousExpiresAt); left < 50*time.Minute || left > 70*time.Minute || sub.NextStagedAt != nil {
				t.Errorf("promoted: %+v", sub)
			}
			refused(ErrNoSecretStaged)(store.PromoteSecret(ctx, id, Promotion{}))
			refused(ErrSecretExpiring)(store.StageSecret(ctx, id, secret.New(thirdSecret)))
			step(store.ExpireSecret(ctx, id))
			is("2 X2")
			refused(ErrNoSecretToExpire)(store.ExpireSecret(ctx, id))

			step(store.StageSecret(ctx, id, secret.New(thirdSecret)))
			sub = step(store.PromoteSecret(ctx, id, Promotion{})) // not kept
			is("3 X3")
			if sub.PreviousExpiresAt != nil || !sub.PreviousSecret.IsZero() {
				t.Errorf("kept: %+v", sub)
			}
			// One whose time is over is as good as none.
			step(store.StageSecret(ctx, id, secret.New(testSecret)))
			step(store.PromoteSecret(ctx, id, Promotion{Keep: time.Hour}))
			is("1 3 X1")
			w.exec("UPDATE relay.subscriptions SET previous_secret_expires_at = now() - interval '2 minutes' WHERE id = $1", id)
			is("1 X1")
			refused(ErrNoSecretToExpire)(store.ExpireSecret(ctx, id))
			updated := w.text("SELECT updated_at::text FROM relay.subscriptions")
			if n, err := store.ForgetSecrets(ctx); err != nil || n != 1 {
				t.Errorf("forgot %d, %v", n, err)
			}
			if got, _, err := d.Refresh(ctx, w.pool, id); err != nil || got != nil || updated != w.text("SELECT updated_at::text FROM relay.subscriptions") {
				t.Errorf("that an expired secret leaves the table is a change: %v", err)
			}
			if n, err := store.ForgetSecrets(ctx); err != nil || n != 0 {
				t.Errorf("forgot %d again, %v", n, err)
			}
			sealed := w.count("SELECT count(*) FROM relay.subscriptions WHERE secret LIKE 'sealed:%'") == 1
			if sealed != (keys != nil) {
				t.Errorf("sealed %v", sealed)
			}
			if _, err := store.StageSecret(ctx, uuid.New(), secret.New(secondSecret)); !errors.Is(err, ErrNotFound) {
				t.Errorf("of no subscription: %v", err)
			}
		})
	}
}

// Whoever lost the key can still give the subscription a secret that opens.
func TestPromoteSecret_IsAWayOutWhenTheKeyIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.add("a.test", keyring(t, newKeyset(t)))
	store := Subscriptions{DB: w.pool, Keys: keyring(t, newKeyset(t))}
	if _, err := (Subscriptions{DB: w.pool}).StageSecret(t.Context(), id, secret.New(secondSecret)); !errors.Is(err, secret.ErrLocked) {
		t.Errorf("without any key, a secret is staged as it is beside a sealed one: %v", err)
	}
	if _, err := store.StageSecret(t.Context(), id, secret.New(secondSecret)); err != nil {
		t.Fatal(err)
	}
	if _, err := store.PromoteSecret(t.Context(), id, Promotion{Keep: time.Hour}); !errors.Is(err, secret.ErrLocked) || !strings.Contains(err.Error(), "--keep 0s") {
		t.Errorf("got %v", err)
	}
	sub, err := store.PromoteSecret(t.Context(), id, Promotion{})
	if err != nil || sub.Locked != nil || sub.Secret.Reveal() != secondSecret {
		t.Errorf("got %+v, %v", sub, err)
	}
}

func TestSubscriptions_OneOfTwoRotationsAtOnceWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keys := keyring(t, newKeyset(t))
	id := w.add("a.test", keys)
	store := Subscriptions{DB: w.pool, Keys: keys}
	for range 10 {
		var done sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			done.Go(func() { _, errs[i] = store.StageSecret(t.Context(), id, secret.New(signature.NewSecret())) })
		}
		done.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, ErrSecretStaged) {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Fatalf("%d were staged", won)
		}
		if _, err := store.UnstageSecret(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

// The database is not asked, and nobody has to come by.
func TestEndpoint_StopsSigningWithASecretThatExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		at := time.Now().Add(time.Hour)
		s := testSubscription("acme", "*")
		previous := secondSecret
		s.stored = newStored(testSecret, nil, &previous, nil, nil)
		s.PreviousExpiresAt = &at
		d := NewDirectory(anyURL, nil, nil)
		ep := d.put(s)
		for _, c := range []struct {
			after time.Duration
			want  string
		}{{0, "1 2 X1"}, {time.Hour - time.Nanosecond, "1 2 X1"}, {time.Nanosecond, "1 X1"}, {time.Hour, "1 X1"}} {
			time.Sleep(c.after)
			if got := signs(t, ep.spec.Load().signerAt(time.Now())); got != c.want {
				t.Errorf("after %s signs with %q, want %q", c.after, got, c.want)
			}
		}
		again := *s
		if d.put(&again) != nil {
			t.Error("a time that has come is a change")
		}
	})
}
