package egress

import (
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mustWriteCA writes a certificate as operators keep them.
func mustWriteCA(t *testing.T, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	text := append([]byte("# a private authority\n"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPolicy_TrustsTheCAFileBesidesTheSystem(t *testing.T) {
	r := newReceiver(t, true)
	url := "https://" + receiverHost + ":" + r.port
	allow := []string{receiverHost, "127.0.0.1"}
	secure := func(o Options) *http.Client {
		o.Allow, o.Resolver = allow, newResolver(t, always(receiverHost))
		c := mustPolicy(t, o).Client(TransportOptions{})
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	url = strings.Replace(url, receiverHost, "example.com", 1)
	if _, err := get(t, secure(Options{}), url); err == nil {
		t.Error("an unknown authority is trusted")
	}
	path := mustWriteCA(t, r.Certificate().Raw)
	if _, err := get(t, secure(Options{CAFile: path}), url); err != nil {
		t.Error(err)
	}
	own := r.roots()
	before := own.Clone()
	if _, err := get(t, secure(Options{CAFile: path, RootCAs: own}), url); err != nil || !own.Equal(before) {
		t.Errorf("%v; the given pool has changed: %t", err, !own.Equal(before))
	}
	p := mustPolicy(t, Options{CAFile: path})
	if p.rules.Load().RootCAs.Equal(r.roots()) {
		t.Error("the system's authorities are no longer trusted")
	}
}

func TestPolicy_RefusesACAFileThatItCannotUse(t *testing.T) {
	dir := t.TempDir()
	empty, junk := filepath.Join(dir, "empty.pem"), filepath.Join(dir, "key.pem")
	for path, text := range map[string]string{empty: "", junk: "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := mustPolicy(t, Options{Allow: []string{"10.0.0.1"}})
	for _, path := range []string{empty, junk, dir, filepath.Join(dir, "missing.pem"), "/dev/zero"} {
		for _, err := range []error{newErr(Options{CAFile: path}), good.Reload(Options{CAFile: path})} {
			if err == nil || !strings.Contains(err.Error(), "egress.ca_file") || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	mustDecide(t, good, "receiver.example", "10.0.0.1", 443, "") // the old policy stays
}

func newErr(o Options) error {
	_, err := New(o)
	return err
}
