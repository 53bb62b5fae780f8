<?php
// Needs ext-pdo_pgsql; DATABASE_DSN="pgsql:host=localhost;dbname=app;user=app"
declare(strict_types=1);

/** Marks the invoice paid and tells the outbox, in one transaction. The amount is a string: a float loses digits. */
function receivePayment(
    PDO $db, string $tenant, string $invoice, string $payment, string $amount, string $currency
): void {
    $data = ['payment_id' => $payment, 'invoice_id' => $invoice, 'amount' => $amount, 'currency' => $currency];
    $db->beginTransaction();
    try {
        $paid = $db->prepare(
            "UPDATE invoices SET status = 'paid' WHERE tenant_id = ? AND id = ? AND status <> 'paid'"
        );
        $paid->execute([$tenant, $invoice]);
        if ($paid->rowCount() > 0) { // else paid already, or not there: no change, no event
            $db->prepare(
                'INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)'
                . ' VALUES (?, ?, ?, ?, ?)'
            )->execute([$tenant, 'payment', $invoice, 'payment.received', json_encode($data, JSON_THROW_ON_ERROR)]);
        }
        $db->commit();
    } catch (Throwable $e) {
        $db->rollBack();
        throw $e;
    }
}

$db = new PDO(getenv('DATABASE_DSN'), null, null, [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
receivePayment($db, 'acme', 'inv_2001', 'pay_1001', '1500.00', 'EUR');
