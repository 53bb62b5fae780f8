// npm install pg
import pg from "pg";

// Marks the invoice paid and tells the outbox, in one transaction. The amount is a string: a JavaScript number would
// lose digits.
export async function receivePayment(db, tenant, invoice, payment, amount, currency) {
  const data = { payment_id: payment, invoice_id: invoice, amount, currency };
  await db.query("BEGIN");
  try {
    const paid = await db.query(
      "UPDATE invoices SET status = 'paid' WHERE tenant_id = $1 AND id = $2 AND status <> 'paid'",
      [tenant, invoice],
    );
    if (paid.rowCount > 0) { // else paid already, or not there: no change, no event
      await db.query(
        "INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)" +
          " VALUES ($1, $2, $3, $4, $5)",
        [tenant, "payment", invoice, "payment.received", JSON.stringify(data)],
      );
    }
    await db.query("COMMIT");
  } catch (e) {
    await db.query("ROLLBACK");
    throw e;
  }
}

// One client from connect to end: BEGIN and COMMIT through a pool could meet different connections.
const db = new pg.Client({ connectionString: process.env.DATABASE_URL });
await db.connect();
try {
  await receivePayment(db, "acme", "inv_2001", "pay_1001", "1500.00", "EUR");
} finally {
  await db.end();
}
