package api

import (
	"context"

	"github.com/google/uuid"
)

// page is where a list goes on.
type page struct {
	key   []byte
	scope string
	last  uuid.UUID // id that the page before ended with; uuid.Nil for the first page
}

// cursorPage reads the cursor of a call. of names the list with its filters: another one's cursor is refused.
func (s *server) cursorPage(ctx context.Context, c *caller, of string, in *PageQuery) (*page, error) {
	key, err := s.cursors.load(ctx, s.DB)
	if err != nil {
		return nil, err
	}
	p := &page{key: key, scope: c.tenant + "\x00" + of}
	if in.Cursor != "" {
		p.last, err = verify(key, p.scope, in.Cursor)
	}
	return p, err
}

// before is last for lists that go down: the highest id for the first page.
func (p *page) before() uuid.UUID {
	if p.last == uuid.Nil {
		return uuid.Max
	}
	return p.last
}

// cut is a page out of a list that was read with one item more than the page may have, and the cursor of the next page:
// nil when that item was not there.
func cut[T any](p *page, list []T, limit int, id func(*T) uuid.UUID) ([]T, *string) {
	if len(list) <= limit {
		return list, nil
	}
	list = list[:limit]
	next := sign(p.key, p.scope, id(&list[limit-1]))
	return list, &next
}
