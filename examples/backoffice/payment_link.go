package backoffice

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// paymentLink is a row of backoffice.payment_links: one attempt to have an invoice paid. It is open until the
// provider's callback makes it paid or failed, and then stays so.
type paymentLink struct {
	ID          string     `db:"id" json:"id"`
	TenantID    string     `db:"tenant_id" json:"-"`
	InvoiceID   string     `db:"invoice_id" json:"invoice_id"`
	Amount      string     `db:"amount" json:"amount"`
	Currency    string     `db:"currency" json:"currency"`
	Description *string    `db:"description" json:"description"`
	Status      string     `db:"status" json:"status"`
	PaymentID   *string    `db:"payment_id" json:"payment_id"`
	Reason      *string    `db:"reason" json:"reason"`
	ErrorCode   *string    `db:"error_code" json:"error_code"`
	CreatedAt   time.Time  `db:"created_at" json:"created_at"`
	SettledAt   *time.Time `db:"settled_at" json:"settled_at"`
	URL         string     `db:"-" json:"url"`
}

const linkColumns = `id::text, tenant_id, invoice_id, amount::text, currency, description, status, payment_id, reason,
	error_code, created_at, settled_at`

// invoice is a row of backoffice.invoices. Its lock orders all payments of the invoice.
type invoice struct {
	Amount   string `db:"amount"`
	Currency string `db:"currency"`
	Status   string `db:"status"`
	// Same tells whether amount and currency are those that a query asked about.
	Same bool `db:"same"`
}

// createLink makes a link, and the invoice when it is the first. It is nothing that receivers wait for: no event.
func (s *Server) createLink(w http.ResponseWriter, r *http.Request, tenant string) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	var invoiceID, code, description string
	var amount Amount
	f := newForm().require("invoice_id", &invoiceID).require("amount", &amount).require("currency", &code).
		allow("description", &description)
	if err := f.decode(body); err != nil {
		return err
	}
	f.checkID("invoice_id", invoiceID)
	f.checkCurrency("currency", code)
	if err := f.err(); err != nil {
		return err
	}
	var link paymentLink
	err = s.transact(r, func(ctx context.Context, u *unit) error {
		_, err := u.Exec(ctx, `
			INSERT INTO backoffice.invoices (tenant_id, id, amount, currency) VALUES ($1, $2, $3::numeric, $4)
			ON CONFLICT DO NOTHING`, tenant, invoiceID, string(amount), code)
		if err != nil {
			return fmt.Errorf("insert invoice: %w", err)
		}
		bill, err := lockInvoice(ctx, u, tenant, invoiceID, string(amount), code)
		switch {
		case err != nil:
			return err
		case bill.Status == "paid":
			return conflict("the invoice is paid already")
		case !bill.Same:
			return conflict("the invoice is over %s %s", bill.Amount, bill.Currency)
		}
		link, err = one[paymentLink](ctx, u, "payment link", `
			INSERT INTO backoffice.payment_links (tenant_id, invoice_id, amount, currency, description)
			VALUES ($1, $2, $3::numeric, $4, $5) RETURNING `+linkColumns,
			tenant, invoiceID, string(amount), code, optional(description))
		return err
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/tenant/payments/links/"+link.ID)
	return respond(w, http.StatusCreated, s.withURL(link))
}

func lockInvoice(ctx context.Context, u *unit, tenant, id, amount, code string) (invoice, error) {
	return one[invoice](ctx, u, "invoice", `
		SELECT amount::text, currency, status, (amount, currency) = ($3::numeric, $4) AS same
		FROM backoffice.invoices WHERE tenant_id = $1 AND id = $2 FOR UPDATE`, tenant, id, amount, code)
}

func (s *Server) showLink(w http.ResponseWriter, r *http.Request, tenant string) error {
	linkID, err := id(r, "payment link")
	if err != nil {
		return err
	}
	link, err := one[paymentLink](r.Context(), s.pool, "payment link",
		`SELECT `+linkColumns+` FROM backoffice.payment_links WHERE tenant_id = $1 AND id = $2`, tenant, linkID)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, s.withURL(link))
}

func (s *Server) withURL(link paymentLink) paymentLink {
	link.URL = s.checkout + "/" + link.ID
	return link
}
