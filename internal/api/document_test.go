package api

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/token"
)

// verifiers is where the published tools are installed.
func verifiers(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../test/verifiers")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		t.Fatalf("%v: run make ensure-test-tools", err)
	}
	return dir
}

// run calls a tool of node_modules/.bin in a directory.
func run(t *testing.T, in string, env []string, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir, cmd.Env = in, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func writeTo(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDocument_PassesAPublicLinter(t *testing.T) {
	t.Parallel()
	dir := verifiers(t)
	document, err := Document()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "openapi.json")
	spectral := filepath.Join(dir, "node_modules", ".bin", "spectral")
	writeTo(t, file, document)
	out := run(t, dir, nil, spectral, "lint", "--ruleset", "openapi.spectral.yaml", "--fail-severity", "warn", file)
	if !strings.Contains(out, "No results with a severity of") {
		t.Errorf("%s", out)
	}
	// It finds what is wrong.
	writeTo(t, file, []byte(strings.Replace(string(document), `"operationId": "listChanges"`, `"operationId": "listDeliveries"`, 1)))
	cmd := exec.CommandContext(t.Context(), spectral, "lint", "--ruleset", filepath.Join(dir, "openapi.spectral.yaml"), file)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "operation-operationId-unique") {
		t.Errorf("a document with the same operation twice: %v, %s", err, out)
	}
}

// A client is generated from the document, compiled strictly, and used against the API.
func TestDocument_MakesAClientThatWorks(t *testing.T) {
	t.Parallel()
	tools := verifiers(t)
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	sub := w.subscribe(acme)
	w.parked("acme", sub.ID, time.Now(), 1)
	document, err := Document()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeTo(t, filepath.Join(dir, "openapi.json"), document)
	for _, name := range []string{"client.ts", "tsconfig.json"} {
		b, err := os.ReadFile(filepath.Join(tools, name))
		if err != nil {
			t.Fatal(err)
		}
		writeTo(t, filepath.Join(dir, name), b)
	}
	if err := os.Symlink(filepath.Join(tools, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(tools, "node_modules", ".bin")
	run(t, dir, nil, filepath.Join(bin, "openapi-typescript"), "openapi.json", "--output", "api.d.ts")
	run(t, dir, nil, filepath.Join(bin, "tsc"), "--project", ".")
	var got struct {
		Names                        []string
		Secret, Description, Problem string
		Active                       bool
		Attempts, Status, Gone       int
	}
	out := run(t, dir, []string{"BASE_URL=" + w.base, "TOKEN=" + acme}, "node", "client.js")
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(got.Names) != 7 || !slices.Contains(got.Names, "payment.received") || got.Secret != "whsec_" || got.Description != "by a client" ||
		got.Active || got.Attempts != 1 || got.Problem != "/event" || got.Status != 422 || got.Gone != 204 {
		t.Errorf("the client says %s", out)
	}
}

func TestAPI_ShowsItsDocumentAndPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	doc := w.call("GET", "//openapi.json", "", nil)
	if doc.Status != 200 || !strings.Contains(doc.Text, `"openapi": "3.1.0"`) || !strings.HasPrefix(doc.Header.Get("Content-Type"), "application/") {
		t.Errorf("status %d, %.200s", doc.Status, doc.Text)
	}
	page := w.call("GET", "//docs", "", nil)
	for id := range samples {
		if !strings.Contains(doc.Text, `"operationId": "`+id+`"`) || !strings.Contains(page.Text, `id="`+id+`"`) {
			t.Errorf("operation %s is not in both", id)
		}
	}
	for _, kind := range kinds {
		if !strings.Contains(page.Text, `id="`+kind.anchor+`"`) {
			t.Errorf("problem %s is not on the page", kind.anchor)
		}
	}
	// The page must work without the network and run nothing.
	for _, bad := range []string{"<script", "http://", "https://", "src=", "@import", "url("} {
		rest := strings.ReplaceAll(strings.ReplaceAll(page.Text, "http://localhost:8000", ""), "https://hooks.example.com", "")
		if strings.Contains(rest, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	if !strings.Contains(page.Header.Get("Content-Security-Policy"), "style-src 'sha256-") || !bytes.Contains([]byte(page.Text), []byte(pageCSS)) {
		t.Errorf("policy %q", page.Header.Get("Content-Security-Policy"))
	}
}
