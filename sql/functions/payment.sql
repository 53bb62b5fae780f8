-- Events of the aggregate payment: one function an event, its parameters named as the members of its data.
-- Each inserts one event and returns its id. A required value that is NULL is refused, an optional one is left out of
-- the data. The data is put together as text, which keeps every digit of an amount, and a NULL deep inside a value.
-- emit.sql explains the rights.

CREATE OR REPLACE FUNCTION outbox.payment_received(
    tenant_id text, payment_id text, invoice_id text, amount numeric, currency text,
    payment_method text DEFAULT NULL, reference_number text DEFAULT NULL)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF num_nulls(payment_id, invoice_id, amount, currency) > 0 THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'payment.received needs payment_id, invoice_id, amount and currency';
    END IF;
    RETURN outbox.emit(tenant_id, 'payment.received', payment_id, ('{' || concat_ws(',',
        '"payment_id":' || to_json(payment_id)::text,
        '"invoice_id":' || to_json(invoice_id)::text,
        '"amount":' || to_json(amount)::text,
        '"currency":' || to_json(currency)::text,
        '"payment_method":' || to_json(payment_method)::text,
        '"reference_number":' || to_json(reference_number)::text) || '}')::json);
END
$$;
REVOKE ALL ON FUNCTION outbox.payment_received(
    text, text, text, numeric, text, text, text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION outbox.payment_failed(
    tenant_id text, payment_id text, invoice_id text, amount numeric, currency text,
    reason text DEFAULT NULL, error_code text DEFAULT NULL)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF num_nulls(payment_id, invoice_id, amount, currency) > 0 THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'payment.failed needs payment_id, invoice_id, amount and currency';
    END IF;
    RETURN outbox.emit(tenant_id, 'payment.failed', payment_id, ('{' || concat_ws(',',
        '"payment_id":' || to_json(payment_id)::text,
        '"invoice_id":' || to_json(invoice_id)::text,
        '"amount":' || to_json(amount)::text,
        '"currency":' || to_json(currency)::text,
        '"reason":' || to_json(reason)::text,
        '"error_code":' || to_json(error_code)::text) || '}')::json);
END
$$;
REVOKE ALL ON FUNCTION outbox.payment_failed(
    text, text, text, numeric, text, text, text) FROM PUBLIC;
