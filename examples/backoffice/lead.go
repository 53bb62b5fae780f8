package backoffice

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// lead is a row of backoffice.leads; receivers know it as a customer.
type lead struct {
	ID        string    `db:"id" json:"id"`
	Name      string    `db:"name" json:"name"`
	Email     *string   `db:"email" json:"email"`
	Phone     *string   `db:"phone" json:"phone"`
	Type      *string   `db:"type" json:"type"`
	CreatedAt time.Time `db:"created_at" json:"created_at"`
	UpdatedAt time.Time `db:"updated_at" json:"updated_at"`
}

const leadColumns = `id::text, name, email, phone, type, created_at, updated_at`

// The data of the two customer events.
type (
	customerCreated struct {
		CustomerID    string  `json:"customer_id"`
		CustomerName  string  `json:"customer_name"`
		CustomerEmail *string `json:"customer_email"`
		CustomerPhone *string `json:"customer_phone"`
		CustomerType  *string `json:"customer_type"`
	}
	customerUpdated struct {
		CustomerID    string            `json:"customer_id"`
		CustomerName  string            `json:"customer_name"`
		Changes       map[string]change `json:"changes"`
		CustomerEmail *string           `json:"customer_email"`
		CustomerPhone *string           `json:"customer_phone"`
	}
	// change is one member of customerUpdated.Changes, under the name that the field has in customer.created.
	change struct {
		From *string `json:"from"`
		To   *string `json:"to"`
	}
)

// changes are the fields in which to differs from from; a value that is missing and one that is empty are the same.
func changes(from, to lead) map[string]change {
	found := make(map[string]change)
	for name, pair := range map[string][2]*string{
		"customer_name":  {&from.Name, &to.Name},
		"customer_email": {from.Email, to.Email},
		"customer_phone": {from.Phone, to.Phone},
		"customer_type":  {from.Type, to.Type},
	} {
		if before, after := pair[0], pair[1]; text(before) != text(after) {
			found[name] = change{From: before, To: after}
		}
	}
	return found
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// readLead reads the fields that a caller may set.
func readLead(w http.ResponseWriter, r *http.Request) (lead, error) {
	body, err := readBody(w, r)
	if err != nil {
		return lead{}, err
	}
	var name, email, phone, kind string
	f := newForm().require("name", &name).allow("email", &email).allow("phone", &phone).allow("type", &kind)
	if err := f.decode(body); err != nil {
		return lead{}, err
	}
	return lead{Name: name, Email: optional(email), Phone: optional(phone), Type: optional(kind)}, nil
}

func (s *Server) createLead(w http.ResponseWriter, r *http.Request, tenant string) error {
	given, err := readLead(w, r)
	if err != nil {
		return err
	}
	var made lead
	err = s.transact(r, func(ctx context.Context, u *unit) error {
		made, err = one[lead](ctx, u, "lead", `
			INSERT INTO backoffice.leads (tenant_id, name, email, phone, type) VALUES ($1, $2, $3, $4, $5)
			RETURNING `+leadColumns, tenant, given.Name, given.Email, given.Phone, given.Type)
		if err != nil {
			return err
		}
		return u.emit(ctx, tenant, "customer", made.ID, "customer.created",
			customerCreated{made.ID, made.Name, made.Email, made.Phone, made.Type})
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/tenant/crm/leads/"+made.ID)
	return respond(w, http.StatusCreated, made)
}

func (s *Server) showLead(w http.ResponseWriter, r *http.Request, tenant string) error {
	leadID, err := id(r, "lead")
	if err != nil {
		return err
	}
	found, err := one[lead](r.Context(), s.pool, "lead",
		`SELECT `+leadColumns+` FROM backoffice.leads WHERE tenant_id = $1 AND id = $2`, tenant, leadID)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, found)
}

// updateLead replaces the lead: a field that is absent is cleared. Where nothing differs, nothing happens.
func (s *Server) updateLead(w http.ResponseWriter, r *http.Request, tenant string) error {
	leadID, err := id(r, "lead")
	if err != nil {
		return err
	}
	given, err := readLead(w, r)
	if err != nil {
		return err
	}
	var now lead
	err = s.transact(r, func(ctx context.Context, u *unit) error {
		// The lock makes `before` the row that this update replaces, not one that a concurrent update has replaced.
		before, err := one[lead](ctx, u, "lead",
			`SELECT `+leadColumns+` FROM backoffice.leads WHERE tenant_id = $1 AND id = $2 FOR UPDATE`, tenant, leadID)
		if err != nil {
			return err
		}
		changed := changes(before, given)
		if len(changed) == 0 {
			now = before
			return nil
		}
		now, err = one[lead](ctx, u, "lead", `
			UPDATE backoffice.leads SET name = $3, email = $4, phone = $5, type = $6, updated_at = clock_timestamp()
			WHERE tenant_id = $1 AND id = $2 RETURNING `+leadColumns,
			tenant, leadID, given.Name, given.Email, given.Phone, given.Type)
		if err != nil {
			return fmt.Errorf("update lead: %w", err)
		}
		return u.emit(ctx, tenant, "customer", now.ID, "customer.updated",
			customerUpdated{now.ID, now.Name, changed, now.Email, now.Phone})
	})
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, now)
}
