// java -cp postgresql.jar Writer.java (with the JDBC driver org.postgresql:postgresql; DATABASE_URL=jdbc:postgresql:...)
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;

public class Writer {
    /** Marks the invoice paid and tells the outbox, in one transaction. */
    static void receivePayment(
            Connection db, String tenant, String invoice, String payment, BigDecimal amount, String currency)
            throws SQLException {
        db.setAutoCommit(false);
        try (var update = db.prepareStatement(
                        "UPDATE invoices SET status = 'paid' WHERE tenant_id = ? AND id = ? AND status <> 'paid'");
                // PostgreSQL builds the JSON, so that no value can break it; a JSON library does as well.
                var insert = db.prepareStatement(
                        "INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)"
                                + " VALUES (?, ?, ?, ?, json_build_object('payment_id', ?::text, 'invoice_id', ?::text,"
                                + " 'amount', ?::text, 'currency', ?::text))")) {
            update.setString(1, tenant);
            update.setString(2, invoice);
            if (update.executeUpdate() > 0) { // else paid already, or not there: no change, no event
                insert.setString(1, tenant);
                insert.setString(2, "payment");
                insert.setString(3, invoice);
                insert.setString(4, "payment.received");
                insert.setString(5, payment);
                insert.setString(6, invoice);
                insert.setString(7, amount.toPlainString());
                insert.setString(8, currency);
                insert.executeUpdate();
            }
            db.commit();
        } catch (SQLException e) {
            db.rollback();
            throw e;
        }
    }

    public static void main(String[] args) throws SQLException {
        try (var db = DriverManager.getConnection(System.getenv("DATABASE_URL"))) {
            receivePayment(db, "acme", "inv_2001", "pay_1001", new BigDecimal("1500.00"), "EUR");
        }
    }
}
