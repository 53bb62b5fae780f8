package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"sync"

	"github.com/google/uuid"
)

// cursors signs the places where pages end. A cursor is good for its tenant, its list and its filters alone.
type cursors struct {
	mu  sync.Mutex
	key []byte
}

// macLen is how many bytes of the HMAC a cursor has.
const macLen = 16

var errCursor = newProblem(http.StatusBadRequest, "", FieldError{In: "query", Parameter: "cursor",
	Detail: "It is not the next_cursor of such a list. Begin again without a cursor."})

// load reads the key, which all relays beside this database share.
func (c *cursors) load(ctx context.Context, db DB) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key == nil {
		if err := db.QueryRow(ctx, sqlCursorKey).Scan(&c.key); err != nil {
			return nil, fmt.Errorf("read cursor key: %w", err)
		}
	}
	return c.key, nil
}

// sign returns the cursor of a page that ends with an id.
func sign(key []byte, scope string, last uuid.UUID) string {
	m := cursorMAC(key, scope, last)
	return base64.RawURLEncoding.EncodeToString(append(m, last[:]...))
}

// verify returns the id in a cursor, or errCursor.
func verify(key []byte, scope, cursor string) (uuid.UUID, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) != macLen+16 {
		return uuid.Nil, errCursor
	}
	last := uuid.UUID(b[macLen:])
	if !hmac.Equal(b[:macLen], cursorMAC(key, scope, last)) {
		return uuid.Nil, errCursor
	}
	return last, nil
}

func cursorMAC(key []byte, scope string, last uuid.UUID) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(last[:])
	m.Write([]byte(scope))
	return m.Sum(nil)[:macLen]
}
