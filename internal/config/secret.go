package config

import (
	"bytes"
	"errors"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// fileSuffix makes from the key of a secret the key of the file that holds it.
const fileSuffix = "_file"

// largestSecret bounds what is read from a secret's file, which could be a device.
const largestSecret = 64 << 10

// readSecret returns the content of a file without one newline at its end.
func readSecret(path string) (string, error) {
	f, err := os.Open(path) // #nosec G304 -- the operator names the file
	if err != nil {
		return "", pathless(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, largestSecret+1))
	switch {
	case err != nil:
		return "", pathless(err)
	case len(b) > largestSecret:
		return "", errors.New("larger than 64KiB")
	}
	if rest, ok := bytes.CutSuffix(b, []byte("\n")); ok {
		b = bytes.TrimSuffix(rest, []byte("\r"))
	}
	if len(b) == 0 {
		return "", errors.New("empty file")
	}
	return string(b), nil
}

// pathless takes the path off an error of package os, for messages that name it already.
func pathless(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// mask stands for a secret wherever one would be shown.
const mask = "***"

var (
	dsnPassword = regexp.MustCompile(`(?is)(\w*pass\w*\s*=\s*)('(?:[^'\\]|\\.)*'?|(?:\\.|[^\s\\])+)`)
	// For proxies, a user without a password is mostly a token.
	httpUserinfo = regexp.MustCompile(`(?is)^(\s*https?://).*@`)
	urlUserinfo  = regexp.MustCompile(`(?s)(://)(.*)@`)
	secretLine   = regexp.MustCompile(`(?i)(["']?[\w.]*(?:url|dsn|pass|proxy|secret|token|credential|key|value)\w*["']?\s*[:=]\s*)(\S.*)$`)
	fileLine     = regexp.MustCompile(`(?i)^[\s{,"']*[\w.]*_file["']?\s*:[^@=]*$`)
)

// Redact returns a connection string, URL or key=value form, with its passwords masked. Text that is
// neither may lose more than its password, never less.
func Redact(conn string) string {
	if strings.Contains(conn, "://") {
		conn = maskText(httpUserinfo.ReplaceAllString(conn, "${1}"+mask+"@"))
		head, query, ok := strings.Cut(conn, "?")
		if !ok {
			return conn
		}
		pairs := strings.Split(query, "&")
		for i, pair := range pairs {
			name, _, _ := strings.Cut(pair, "=")
			if plain, err := url.QueryUnescape(name); err != nil || strings.Contains(strings.ToLower(plain), "pass") {
				pairs[i] = name + "=" + mask
			}
		}
		return head + "?" + strings.Join(pairs, "&")
	}
	return maskText(conn)
}

// maskText masks what looks like a password, in text of which nothing is known.
func maskText(s string) string {
	s = urlUserinfo.ReplaceAllStringFunc(s, func(m string) string {
		userinfo := strings.TrimSuffix(strings.TrimPrefix(m, "://"), "@")
		user, _, ok := strings.Cut(userinfo, ":")
		if !ok {
			// A name without a password, unless an @ or a query shows that this is no plain name.
			if !strings.ContainsAny(userinfo, "@?/=") {
				return m
			}
			return "://" + mask + "@"
		}
		return "://" + user + ":" + mask + "@"
	})
	return dsnPassword.ReplaceAllString(s, "${1}"+mask)
}

// maskLine masks a line of the configuration file: the whole value where the key is one of a secret's,
// since a value that does not parse has no password that could be told apart.
func maskLine(line string) string {
	if !fileLine.MatchString(line) {
		line = secretLine.ReplaceAllString(line, "${1}"+mask)
	}
	return maskText(line)
}
