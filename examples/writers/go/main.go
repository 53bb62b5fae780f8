// Command go writes one business row and its outbox row in one transaction.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
)

// receivePayment marks the invoice paid and tells the outbox, in one transaction. The amount is a string: a float64
// would lose digits.
func receivePayment(ctx context.Context, db *pgx.Conn, tenant, invoice, payment, amount, currency string) error {
	data, err := json.Marshal(map[string]string{
		"payment_id": payment, "invoice_id": invoice, "amount": amount, "currency": currency,
	})
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		paid, err := tx.Exec(ctx, `
			UPDATE invoices SET status = 'paid' WHERE tenant_id = $1 AND id = $2 AND status <> 'paid'`, tenant, invoice)
		if err != nil || paid.RowsAffected() == 0 {
			return err // paid already, or not there: no change, no event
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
			VALUES ($1, $2, $3, $4, $5)`, tenant, "payment", invoice, "payment.received", data)
		return err
	})
}

func run(ctx context.Context) error {
	db, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer db.Close(ctx)
	return receivePayment(ctx, db, "acme", "inv_2001", "pay_1001", "1500.00", "EUR")
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
