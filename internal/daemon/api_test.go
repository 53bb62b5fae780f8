package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/outbox"
)

// writeCertificate makes a certificate with a serial number of its own.
func writeCertificate(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		// Two renewals within one tick of the file system's clock.
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Duration(serial)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServerTLS_TakesARenewedCertificateAndOutlastsABrokenOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, key, 1)
	c := &certificate{cert: cert, key: key}
	serial := func() int64 {
		t.Helper()
		pair, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return parsed.SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("serial %d", got)
	}
	writeCertificate(t, cert, key, 2)
	if got := serial(); got != 2 {
		t.Errorf("after the renewal: serial %d", got)
	}
	if err := os.WriteFile(cert, []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("with a broken file: serial %d", got)
	}
	writeCertificate(t, cert, key, 3)
	if got := serial(); got != 3 {
		t.Errorf("after it was mended: serial %d", got)
	}
}

func TestServerTLS_RefusesWhatCannotBeUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, key, 1)
	for _, c := range [][3]string{{key, cert, "http.tls_cert"}, {cert, cert + ".none", "http.tls_cert"}} {
		if _, err := serverTLS(c[0], c[1]); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s, %s: %v", c[0], c[1], err)
		}
	}
	if c, err := serverTLS("", ""); c != nil || err != nil {
		t.Errorf("none: %v, %v", c, err)
	}
	if c, err := serverTLS(cert, key); err != nil || c.MinVersion < 0x0303 {
		t.Errorf("both: %v, %v", c, err)
	}
}

// What reads the outbox takes a role's bounds away for itself. For a tenant's question they stay.
func TestAuditTable_KeepsTheBoundOfTheAPI(t *testing.T) {
	t.Parallel()
	url := migratetest.NewDatabase(t)
	cfg, err := config.Load(config.LoadOptions{Environ: []string{"RELAY_DATABASE_URL=" + url}})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := newAPIPool(cfg, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	table := AuditTable(cfg)
	table.StatementTimeout = apiStatement
	tx, err := table.BeginReading(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	rows, err := tx.Query(t.Context(), "SHOW statement_timeout")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string]); err != nil || got != "10s" {
		t.Errorf("statement_timeout is %s, %v", got, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}

	if _, err := pool.Exec(t.Context(), `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT 'acme', 'payment', g::text, 'payment.received', '{}' FROM generate_series(1, 50000) g`); err != nil {
		t.Fatal(err)
	}
	sub := deliver.NewSubscription("acme", "https://example.com", []string{"*"}, "secret")
	now := time.Now()
	catalog, err := outbox.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	counter := Retained{cfg, catalog, pool, time.Millisecond}
	var e *pgconn.PgError
	if _, err := counter.Count(t.Context(), sub, nil, now.Add(-time.Hour), now.Add(time.Hour)); !errors.As(err, &e) || e.Code != "57014" {
		t.Errorf("a count that takes too long: %v; want it to be ended", err)
	}
	counter.Within = 0
	if list, err := counter.Count(t.Context(), sub, nil, now.Add(-time.Hour), now.Add(time.Hour)); err != nil || len(list.Events) != 1 || list.Events[0].Rows != 50_000 {
		t.Errorf("a count that may take its time: %v, %v", list, err)
	}
}
