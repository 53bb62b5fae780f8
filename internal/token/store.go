package token

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/sqlfile"
)

// Role is what a token's bearer may do.
type Role string

// The roles. Those of a tenant say nothing outside of it.
const (
	RoleTenantRead  Role = "tenant-read"  // look at what belongs to the tenant
	RoleTenantWrite Role = "tenant-write" // and change it
	RoleOperator    Role = "operator"     // metrics and status; nothing of any tenant's
)

// Token is what is known of a token, but for its text.
type Token struct {
	ID          uuid.UUID  `json:"id"`
	Role        Role       `json:"role"`
	TenantID    *string    `json:"tenant_id"` // nil for an operator's
	Description string     `json:"description"`
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   *time.Time `json:"expires_at"` // nil: never
	RevokedAt   *time.Time `json:"revoked_at"`
	LastUsedAt  *time.Time `json:"last_used_at"` // to about a minute

	provider bool   // it is a JWT of the identity provider; ID names its subject then
	subject  string // of a JWT
}

// Bearer names who has the token, for the log of changes.
func (t *Token) Bearer() string {
	if t.provider {
		return "jwt:" + t.subject
	}
	return "token:" + t.ID.String()
}

var (
	// ErrNotFound is returned for an id that does not exist.
	ErrNotFound = errors.New("no such token")
	// ErrRefused is returned for a token that is unknown, revoked or expired. Which of them it is, only the
	// operator needs to know.
	ErrRefused = errors.New("token is unknown, revoked or expired")
)

// queryFiles holds every statement that this package runs.
//
//go:embed queries/*.sql
var queryFiles embed.FS

var query = sqlfile.Reader(queryFiles)

var (
	sqlAdd    = query("add")
	sqlList   = query("list")
	sqlRevoke = query("revoke")
	sqlUse    = query("use")
	sqlErase  = query("erase")
	sqlCount  = query("count")
)

// DB is what the package needs of a pool.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Store keeps the tokens in the database.
type Store struct{ DB DB }

// Create makes a token of a role, for a tenant unless it is an operator's, that expires at a time unless that is zero. Its
// text is returned this once.
func (s Store) Create(ctx context.Context, role Role, tenant, description string, expires time.Time) (*Token, secret.Secret, error) {
	text := generate()
	lookup, hash, err := parse(text.Reveal())
	if err != nil {
		return nil, secret.Secret{}, err
	}
	var until *time.Time
	if !expires.IsZero() {
		until = &expires
	}
	var of *string
	if role != RoleOperator {
		of = &tenant
	}
	rows, err := s.DB.Query(ctx, sqlAdd, lookup, hash[:], role, of, description, until)
	if err == nil {
		var t *Token
		if t, err = pgx.CollectExactlyOneRow(rows, scanToken); err == nil {
			return t, text, nil
		}
	}
	return nil, secret.Secret{}, fmt.Errorf("add token: %w", err)
}

// List returns the tokens of a tenant, all for "", oldest first.
func (s Store) List(ctx context.Context, tenant string) ([]*Token, error) {
	rows, err := s.DB.Query(ctx, sqlList, tenant)
	if err == nil {
		var list []*Token
		if list, err = pgx.CollectRows(rows, scanToken); err == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("list tokens: %w", err)
}

func scanToken(row pgx.CollectableRow) (*Token, error) {
	var t Token
	return &t, row.Scan(t.fields()...)
}

// fields are where the columns of a token go, in the order of the queries.
func (t *Token) fields() []any {
	return []any{&t.ID, &t.Role, &t.TenantID, &t.Description, &t.CreatedAt, &t.ExpiresAt, &t.RevokedAt, &t.LastUsedAt}
}

// Revoke ends a token, for good. Relays refuse it within CacheFor. One that was revoked before stays as it is.
func (s Store) Revoke(ctx context.Context, id uuid.UUID) error {
	tag, err := s.DB.Exec(ctx, sqlRevoke, id)
	if err != nil {
		return fmt.Errorf("revoke token %s: %w", id, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("token %s: %w", id, ErrNotFound)
	}
	return nil
}

// eraseRows is how many rows one statement deletes.
const eraseRows = 1000

// CountOf counts the tokens of a tenant, revoked ones too.
func (s Store) CountOf(ctx context.Context, tenant string) (n int64, err error) {
	if err := s.DB.QueryRow(ctx, sqlCount, tenant).Scan(&n); err != nil {
		return 0, fmt.Errorf("count tokens: %w", err)
	}
	return n, nil
}

// Erase removes all tokens of a tenant, and returns how many there were. Relays that run take none of them after CacheFor.
func (s Store) Erase(ctx context.Context, tenant string) (all int64, err error) {
	for {
		tag, err := s.DB.Exec(ctx, sqlErase, tenant, eraseRows)
		if err != nil {
			return all, fmt.Errorf("erase tokens: %w", err)
		}
		if all += tag.RowsAffected(); tag.RowsAffected() < eraseRows {
			return all, nil
		}
	}
}
