package backoffice

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
)

// SignatureHeader is the request header with the payment provider's signature, see SignCallback.
const SignatureHeader = "X-Provider-Signature"

// SignCallback is what the payment provider puts into SignatureHeader: the hex HMAC-SHA256 of the body.
func SignCallback(secret string, body []byte) string {
	return hex.EncodeToString(callbackMAC([]byte(secret), body))
}

func callbackMAC(secret, body []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return mac.Sum(nil)
}

// verifyCallback compares in constant time. Without a secret nothing verifies.
func (s *Server) verifyCallback(r *http.Request, body []byte) error {
	given, err := hex.DecodeString(r.Header.Get(SignatureHeader))
	if err != nil || len(s.secret) == 0 || !hmac.Equal(given, callbackMAC(s.secret, body)) {
		return &problem{status: http.StatusUnauthorized, detail: "the signature in " + SignatureHeader + " does not verify"}
	}
	return nil
}

// callback is the payment provider's news about a link.
type callback struct {
	LinkID, Result, PaymentID      string
	PaymentMethod, ReferenceNumber string
	Reason, ErrorCode              string
}

// The data of the two payment events.
type (
	paymentReceived struct {
		PaymentID       string  `json:"payment_id"`
		InvoiceID       string  `json:"invoice_id"`
		Amount          string  `json:"amount"`
		Currency        string  `json:"currency"`
		PaymentMethod   *string `json:"payment_method"`
		ReferenceNumber *string `json:"reference_number"`
	}
	paymentFailed struct {
		PaymentID string  `json:"payment_id"`
		InvoiceID string  `json:"invoice_id"`
		Amount    string  `json:"amount"`
		Currency  string  `json:"currency"`
		Reason    *string `json:"reason"`
		ErrorCode *string `json:"error_code"`
	}
)

func decodeCallback(body []byte) (callback, error) {
	var c callback
	f := newForm().
		require("link_id", &c.LinkID).require("result", &c.Result).require("payment_id", &c.PaymentID).
		allow("payment_method", &c.PaymentMethod).allow("reference_number", &c.ReferenceNumber).
		allow("reason", &c.Reason).allow("error_code", &c.ErrorCode)
	if err := f.decode(body); err != nil {
		return callback{}, err
	}
	if c.Result != "paid" && c.Result != "failed" {
		f.refuse("result", `must be "paid" or "failed"`)
	}
	return c, f.err()
}

// settlePayment takes the provider's result for a link. A provider calls until it reads a 2xx, so the same news again
// answers 200 and makes no second event.
func (s *Server) settlePayment(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	if err := s.verifyCallback(r, body); err != nil {
		return err
	}
	c, err := decodeCallback(body)
	if err != nil {
		return err
	}
	if c.LinkID, err = parseID(c.LinkID, "payment link"); err != nil {
		return err
	}
	var link paymentLink
	err = s.transact(r, func(ctx context.Context, u *unit) error {
		link, err = settle(ctx, u, c)
		return err
	})
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, map[string]string{
		"link_id": link.ID, "invoice_id": link.InvoiceID, "status": link.Status,
	})
}

// settle locks the invoice before the link, as createLink does: its payments form one history, and two requests never
// wait for each other in a circle.
func settle(ctx context.Context, u *unit, c callback) (paymentLink, error) {
	link, err := one[paymentLink](ctx, u, "payment link",
		`SELECT `+linkColumns+` FROM backoffice.payment_links WHERE id = $1`, c.LinkID)
	if err != nil {
		return link, err
	}
	bill, err := lockInvoice(ctx, u, link.TenantID, link.InvoiceID, link.Amount, link.Currency)
	if err != nil {
		return link, err
	}
	// Now that nobody else can settle it, look again.
	link, err = one[paymentLink](ctx, u, "payment link",
		`SELECT `+linkColumns+` FROM backoffice.payment_links WHERE id = $1 FOR UPDATE`, c.LinkID)
	switch {
	case err != nil:
		return link, err
	case link.Status == c.Result && *link.PaymentID == c.PaymentID:
		return link, nil
	case link.Status != "open":
		return link, conflict("the link is %s already, by payment %s", link.Status, *link.PaymentID)
	case bill.Status == "paid" && c.Result == "paid":
		return link, conflict("the invoice was paid through another link; refund this payment")
	}
	if err := recordResult(ctx, u, link, c); err != nil {
		return link, err
	}
	link.Status = c.Result
	// Both kinds share the invoice as their aggregate: a failed try and the payment after it stay in order.
	if c.Result == "failed" {
		return link, u.emit(ctx, link.TenantID, "payment", link.InvoiceID, "payment.failed", paymentFailed{
			c.PaymentID, link.InvoiceID, link.Amount, link.Currency, optional(c.Reason), optional(c.ErrorCode),
		})
	}
	return link, u.emit(ctx, link.TenantID, "payment", link.InvoiceID, "payment.received", paymentReceived{
		c.PaymentID, link.InvoiceID, link.Amount, link.Currency, optional(c.PaymentMethod), optional(c.ReferenceNumber),
	})
}

// recordResult changes the business rows.
func recordResult(ctx context.Context, u *unit, link paymentLink, c callback) error {
	_, err := u.Exec(ctx, `
		UPDATE backoffice.payment_links
		SET status = $2, payment_id = $3, payment_method = $4, reference_number = $5, reason = $6, error_code = $7,
		    settled_at = now()
		WHERE id = $1`,
		link.ID, c.Result, c.PaymentID, optional(c.PaymentMethod), optional(c.ReferenceNumber),
		optional(c.Reason), optional(c.ErrorCode))
	if err != nil {
		return fmt.Errorf("settle payment link: %w", err)
	}
	if c.Result != "paid" {
		return nil
	}
	_, err = u.Exec(ctx, `UPDATE backoffice.invoices SET status = 'paid', paid_at = now() WHERE tenant_id = $1 AND id = $2`,
		link.TenantID, link.InvoiceID)
	if err != nil {
		return fmt.Errorf("settle invoice: %w", err)
	}
	return nil
}
