-- Events of the aggregate sales_order: one function an event, its parameters named as the members of its data.
-- Each inserts one event and returns its id. A required value that is NULL is refused, an optional one is left out of
-- the data. The data is put together as text, which keeps every digit of an amount, and a NULL deep inside a value.
-- emit.sql explains the rights.

CREATE OR REPLACE FUNCTION outbox.sales_order_created(
    tenant_id text, order_id text, order_number text, amount numeric, currency text,
    customer_id text DEFAULT NULL, customer_name text DEFAULT NULL, items_count integer DEFAULT NULL)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF num_nulls(order_id, order_number, amount, currency) > 0 THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'sales_order.created needs order_id, order_number, amount and currency';
    END IF;
    RETURN outbox.emit(tenant_id, 'sales_order.created', order_id, ('{' || concat_ws(',',
        '"order_id":' || to_json(order_id)::text,
        '"order_number":' || to_json(order_number)::text,
        '"amount":' || to_json(amount)::text,
        '"currency":' || to_json(currency)::text,
        '"customer_id":' || to_json(customer_id)::text,
        '"customer_name":' || to_json(customer_name)::text,
        '"items_count":' || to_json(items_count)::text) || '}')::json);
END
$$;
REVOKE ALL ON FUNCTION outbox.sales_order_created(
    text, text, text, numeric, text, text, text, integer) FROM PUBLIC;

CREATE OR REPLACE FUNCTION outbox.sales_order_confirmed(
    tenant_id text, order_id text, order_number text, amount numeric, currency text,
    customer_id text DEFAULT NULL, customer_name text DEFAULT NULL)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF num_nulls(order_id, order_number, amount, currency) > 0 THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'sales_order.confirmed needs order_id, order_number, amount and currency';
    END IF;
    RETURN outbox.emit(tenant_id, 'sales_order.confirmed', order_id, ('{' || concat_ws(',',
        '"order_id":' || to_json(order_id)::text,
        '"order_number":' || to_json(order_number)::text,
        '"amount":' || to_json(amount)::text,
        '"currency":' || to_json(currency)::text,
        '"customer_id":' || to_json(customer_id)::text,
        '"customer_name":' || to_json(customer_name)::text) || '}')::json);
END
$$;
REVOKE ALL ON FUNCTION outbox.sales_order_confirmed(
    text, text, text, numeric, text, text, text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION outbox.sales_order_cancelled(
    tenant_id text, order_id text, order_number text, reason text DEFAULT NULL)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF num_nulls(order_id, order_number) > 0 THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'sales_order.cancelled needs order_id and order_number';
    END IF;
    RETURN outbox.emit(tenant_id, 'sales_order.cancelled', order_id, ('{' || concat_ws(',',
        '"order_id":' || to_json(order_id)::text,
        '"order_number":' || to_json(order_number)::text,
        '"reason":' || to_json(reason)::text) || '}')::json);
END
$$;
REVOKE ALL ON FUNCTION outbox.sales_order_cancelled(
    text, text, text, text) FROM PUBLIC;
