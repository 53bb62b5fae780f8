package backoffice

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// salesOrder is a row of backoffice.sales_orders. created -> confirmed -> delivered; created and confirmed orders can
// be cancelled.
type salesOrder struct {
	ID           string    `db:"id" json:"id"`
	OrderNumber  string    `db:"order_number" json:"order_number"`
	Amount       string    `db:"amount" json:"amount"`
	Currency     string    `db:"currency" json:"currency"`
	CustomerID   *string   `db:"customer_id" json:"customer_id"`
	CustomerName *string   `db:"customer_name" json:"customer_name"`
	ItemsCount   *int32    `db:"items_count" json:"items_count"`
	Status       string    `db:"status" json:"status"`
	CancelReason *string   `db:"cancel_reason" json:"cancel_reason"`
	CreatedAt    time.Time `db:"created_at" json:"created_at"`
	UpdatedAt    time.Time `db:"updated_at" json:"updated_at"`
}

const orderColumns = `id::text, order_number, amount::text, currency, customer_id, customer_name, items_count, status,
	cancel_reason, created_at, updated_at`

// The data of sales_order.created and sales_order.confirmed; sales_order.cancelled is made by its SQL function.
type (
	orderCreated struct {
		orderConfirmed
		ItemsCount *int32 `json:"items_count"`
	}
	orderConfirmed struct {
		OrderID      string  `json:"order_id"`
		OrderNumber  string  `json:"order_number"`
		Amount       string  `json:"amount"`
		Currency     string  `json:"currency"`
		CustomerID   *string `json:"customer_id"`
		CustomerName *string `json:"customer_name"`
	}
)

func (o salesOrder) confirmed() orderConfirmed {
	return orderConfirmed{o.ID, o.OrderNumber, o.Amount, o.Currency, o.CustomerID, o.CustomerName}
}

func (s *Server) createOrder(w http.ResponseWriter, r *http.Request, tenant string) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	var number, code, customerID, customerName string
	var amount Amount
	var items *int32
	f := newForm().require("order_number", &number).require("amount", &amount).require("currency", &code).
		allow("customer_id", &customerID).allow("customer_name", &customerName).allow("items_count", &items)
	if err := f.decode(body); err != nil {
		return err
	}
	f.checkCurrency("currency", code)
	if items != nil && *items < 0 {
		f.refuse("items_count", "must not be negative")
	}
	if err := f.err(); err != nil {
		return err
	}
	var made salesOrder
	err = s.transact(r, func(ctx context.Context, u *unit) error {
		made, err = one[salesOrder](ctx, u, "sales order", `
			INSERT INTO backoffice.sales_orders
				(tenant_id, order_number, amount, currency, customer_id, customer_name, items_count)
			VALUES ($1, $2, $3::numeric, $4, $5, $6, $7) RETURNING `+orderColumns,
			tenant, number, string(amount), code, optional(customerID), optional(customerName), items)
		if isDuplicate(err) {
			return conflict("there is an order %q already", number)
		}
		if err != nil {
			return err
		}
		return u.emit(ctx, tenant, "sales_order", made.ID, "sales_order.created",
			orderCreated{made.confirmed(), made.ItemsCount})
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/tenant/sales_orders/"+made.ID)
	return respond(w, http.StatusCreated, made)
}

func (s *Server) showOrder(w http.ResponseWriter, r *http.Request, tenant string) error {
	orderID, err := id(r, "sales order")
	if err != nil {
		return err
	}
	found, err := one[salesOrder](r.Context(), s.pool, "sales order",
		`SELECT `+orderColumns+` FROM backoffice.sales_orders WHERE tenant_id = $1 AND id = $2`, tenant, orderID)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, found)
}

func (s *Server) confirmOrder(w http.ResponseWriter, r *http.Request, tenant string) error {
	return s.moveOrder(w, r, tenant, move{to: "confirmed", from: []string{"created"}, form: newForm(),
		emit: func(ctx context.Context, u *unit, o salesOrder) error {
			return u.emit(ctx, tenant, "sales_order", o.ID, "sales_order.confirmed", o.confirmed())
		}})
}

func (s *Server) cancelOrder(w http.ResponseWriter, r *http.Request, tenant string) error {
	var reason string
	return s.moveOrder(w, r, tenant, move{to: "cancelled", from: []string{"created", "confirmed"},
		form: newForm().allow("reason", &reason), reason: &reason,
		// The outbox's function for this event in place of a plain INSERT: it names the fields and types them.
		emit: func(ctx context.Context, u *unit, o salesOrder) error {
			_, err := u.Exec(ctx, `
				SELECT outbox.sales_order_cancelled(
					tenant_id => $1, order_id => $2, order_number => $3, reason => $4)`,
				tenant, o.ID, o.OrderNumber, o.CancelReason)
			if err != nil {
				return fmt.Errorf("call outbox.sales_order_cancelled: %w", err)
			}
			return u.afterOutbox()
		}})
}

// deliverOrder has no event; it is there to show that a delivered order cannot be cancelled.
func (s *Server) deliverOrder(w http.ResponseWriter, r *http.Request, tenant string) error {
	return s.moveOrder(w, r, tenant, move{to: "delivered", from: []string{"confirmed"}, form: newForm()})
}

// move is a step in an order's life.
type move struct {
	to   string
	from []string
	form *form
	// reason, if set, is stored with the order once form is decoded.
	reason *string
	// emit, if set, writes the event of the step.
	emit func(ctx context.Context, u *unit, o salesOrder) error
}

// moveOrder takes the step under the order's lock. Where the order stands there already it answers 200 and emits
// nothing; from any other state than those of the move, 409.
func (s *Server) moveOrder(w http.ResponseWriter, r *http.Request, tenant string, m move) error {
	orderID, err := id(r, "sales order")
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	if err := m.form.decode(body); err != nil {
		return err
	}
	var reason *string
	if m.reason != nil {
		reason = optional(*m.reason)
	}
	var now salesOrder
	err = s.transact(r, func(ctx context.Context, u *unit) error {
		now, err = one[salesOrder](ctx, u, "sales order", `
			SELECT `+orderColumns+` FROM backoffice.sales_orders WHERE tenant_id = $1 AND id = $2 FOR UPDATE`,
			tenant, orderID)
		switch {
		case err != nil:
			return err
		case now.Status == m.to:
			return nil
		case !slices.Contains(m.from, now.Status):
			return conflict("the order is %s and cannot become %s", now.Status, m.to)
		}
		now, err = one[salesOrder](ctx, u, "sales order", `
			UPDATE backoffice.sales_orders SET status = $3, cancel_reason = $4, updated_at = clock_timestamp()
			WHERE tenant_id = $1 AND id = $2 RETURNING `+orderColumns, tenant, orderID, m.to, reason)
		if err != nil || m.emit == nil {
			return err
		}
		return m.emit(ctx, u, now)
	})
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, now)
}
