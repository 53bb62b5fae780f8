-- Events of the aggregate customer: one function an event, its parameters named as the members of its data.
-- Each inserts one event and returns its id. A required value that is NULL is refused, an optional one is left out of
-- the data. The data is put together as text, which keeps every digit of an amount, and a NULL deep inside a value.
-- emit.sql explains the rights.

CREATE OR REPLACE FUNCTION outbox.customer_created(
    tenant_id text, customer_id text, customer_name text, customer_email text DEFAULT NULL,
    customer_phone text DEFAULT NULL, customer_type text DEFAULT NULL)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF num_nulls(customer_id, customer_name) > 0 THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'customer.created needs customer_id and customer_name';
    END IF;
    RETURN outbox.emit(tenant_id, 'customer.created', customer_id, ('{' || concat_ws(',',
        '"customer_id":' || to_json(customer_id)::text,
        '"customer_name":' || to_json(customer_name)::text,
        '"customer_email":' || to_json(customer_email)::text,
        '"customer_phone":' || to_json(customer_phone)::text,
        '"customer_type":' || to_json(customer_type)::text) || '}')::json);
END
$$;
REVOKE ALL ON FUNCTION outbox.customer_created(
    text, text, text, text, text, text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION outbox.customer_updated(
    tenant_id text, customer_id text, customer_name text, changes jsonb, customer_email text DEFAULT NULL,
    customer_phone text DEFAULT NULL)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF num_nulls(customer_id, customer_name, changes) > 0 THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'customer.updated needs customer_id, customer_name and changes';
    END IF;
    RETURN outbox.emit(tenant_id, 'customer.updated', customer_id, ('{' || concat_ws(',',
        '"customer_id":' || to_json(customer_id)::text,
        '"customer_name":' || to_json(customer_name)::text,
        '"changes":' || to_json(changes)::text,
        '"customer_email":' || to_json(customer_email)::text,
        '"customer_phone":' || to_json(customer_phone)::text) || '}')::json);
END
$$;
REVOKE ALL ON FUNCTION outbox.customer_updated(
    text, text, text, jsonb, text, text) FROM PUBLIC;
