# gem install pg
require "json"
require "pg"

# Marks the invoice paid and tells the outbox, in one transaction.
def receive_payment(db, tenant, invoice, payment, amount, currency)
  data = { payment_id: payment, invoice_id: invoice, amount: amount, currency: currency }
  db.transaction do |tx|
    paid = tx.exec_params(
      "UPDATE invoices SET status = 'paid' WHERE tenant_id = $1 AND id = $2 AND status <> 'paid'",
      [tenant, invoice]
    )
    next if paid.cmd_tuples.zero? # paid already, or not there: no change, no event

    tx.exec_params(
      "INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)" \
      " VALUES ($1, $2, $3, $4, $5)",
      [tenant, "payment", invoice, "payment.received", JSON.generate(data)]
    )
  end
end

# The amount is a string: a Float would lose digits.
db = PG.connect(ENV.fetch("DATABASE_URL"))
receive_payment(db, "acme", "inv_2001", "pay_1001", "1500.00", "EUR")
db.close
