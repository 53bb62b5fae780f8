-- Functions for writers. Applied again whenever this text changes, so everything here may run any number of times.
--
-- They run with the rights of their owner: a writer needs USAGE on the schema and EXECUTE on what it calls, nothing on
-- the table. Nobody may call them before a GRANT says so. CREATE OR REPLACE keeps those grants, but can neither rename
-- nor add a parameter: that takes a migration that drops the function first, and new grants.
--
-- plpgsql, not sql: a session plans the INSERT once, not at each call.

-- emit inserts one event and returns its id. The aggregate type is the event type up to its last dot. headers travel
-- with the event and are not part of its data.
CREATE OR REPLACE FUNCTION outbox.emit(
    tenant_id text, event_type text, aggregate_id text, payload json, headers jsonb DEFAULT NULL)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    aggregate_type text := left(event_type, -strpos(reverse(event_type), '.'));
    event_id uuid;
BEGIN
    IF strpos(event_type, '.') = 0 OR aggregate_type = '' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('event type "%s" names no aggregate', event_type),
            HINT = 'Write aggregate, dot, event, such as payment.received.';
    END IF;
    INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload, headers)
    VALUES (emit.tenant_id, aggregate_type, emit.aggregate_id, emit.event_type, emit.payload, emit.headers)
    RETURNING events.id INTO event_id;
    RETURN event_id;
END
$$;

-- A jsonb payload: PostgreSQL casts jsonb to json on assignment, not for an argument.
CREATE OR REPLACE FUNCTION outbox.emit(
    tenant_id text, event_type text, aggregate_id text, payload jsonb, headers jsonb DEFAULT NULL)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN outbox.emit(tenant_id, event_type, aggregate_id, payload::json, headers);
END
$$;

-- A payload whose type is not said, a quoted literal or a driver's parameter: PostgreSQL prefers text for it. Without
-- this one it could not choose between the two above and would refuse the call.
CREATE OR REPLACE FUNCTION outbox.emit(
    tenant_id text, event_type text, aggregate_id text, payload text, headers jsonb DEFAULT NULL)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN outbox.emit(tenant_id, event_type, aggregate_id, payload::json, headers);
END
$$;

REVOKE ALL ON FUNCTION outbox.emit(text, text, text, json, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.emit(text, text, text, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.emit(text, text, text, text, jsonb) FROM PUBLIC;
