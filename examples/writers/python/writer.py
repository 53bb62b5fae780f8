# pip install "psycopg[binary]"
import json
import os
from decimal import Decimal

import psycopg


def receive_payment(db, tenant, invoice, payment, amount: Decimal, currency):
    """Marks the invoice paid and tells the outbox, in one transaction."""
    data = {"payment_id": payment, "invoice_id": invoice, "amount": str(amount), "currency": currency}
    with db.transaction():
        paid = db.execute(
            "UPDATE invoices SET status = 'paid' WHERE tenant_id = %s AND id = %s AND status <> 'paid'",
            (tenant, invoice),
        )
        if paid.rowcount == 0:
            return  # paid already, or not there: no change, no event
        db.execute(
            "INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)"
            " VALUES (%s, %s, %s, %s, %s)",
            (tenant, "payment", invoice, "payment.received", json.dumps(data)),
        )


if __name__ == "__main__":
    with psycopg.connect(os.environ["DATABASE_URL"]) as db:
        receive_payment(db, "acme", "inv_2001", "pay_1001", Decimal("1500.00"), "EUR")
