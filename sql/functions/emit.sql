-- Functions for writers. Applied again whenever this text changes, so everything here may run any number of times.
--
-- They run with the rights of their owner: a writer needs USAGE on the schema and EXECUTE on what it calls, nothing on
-- the table. Nobody may call them before a GRANT says so. CREATE OR REPLACE keeps those grants, but can neither rename
-- nor add a parameter: a function that changes so gets its grants from the one that it replaces, as emit does below.
-- Every name is unique, so that a GRANT needs no list of types.
--
-- plpgsql, not sql: a session plans the INSERT once, not at each call.

-- emit inserts one event and returns its id. The aggregate type is the event type up to its last dot. headers travel
-- with the event and are not part of its data. The payload may be json, jsonb, or text that is JSON: anycompatible takes
-- all of them, and takes a quoted literal or a driver's parameter, whose type is not said, for text.
CREATE OR REPLACE FUNCTION outbox.emit(
    tenant_id text, event_type text, aggregate_id text, payload anycompatible, headers jsonb DEFAULT NULL)
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
    VALUES (emit.tenant_id, aggregate_type, emit.aggregate_id, emit.event_type, emit.payload::json, emit.headers)
    RETURNING events.id INTO event_id;
    RETURN event_id;
END
$$;
REVOKE ALL ON FUNCTION outbox.emit(text, text, text, anycompatible, jsonb) FROM PUBLIC;

-- There once was one emit for each type of the payload. Whoever may call one of them may call the one that there is. One
-- that a view or a function of the database's own is bound to cannot be dropped: it stays as emit_json, emit_jsonb or
-- emit_text, and calls emit.
DO $$
DECLARE
    old regprocedure;
    grantee text;
    payload text;
    owner name;
BEGIN
    FOR old, payload, owner IN
        SELECT p.oid, p.proargtypes[3]::regtype::text, pg_get_userbyid(p.proowner) FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'outbox'::regnamespace AND p.proname = 'emit' AND p.pronargs = 5
          AND p.proargtypes[3] = ANY ('{json,jsonb,text}'::regtype[])
    LOOP
        FOR grantee IN
            SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
                   || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a WHERE p.oid = old AND a.grantee <> p.proowner
        LOOP
            EXECUTE 'GRANT EXECUTE ON FUNCTION outbox.emit(text, text, text, anycompatible, jsonb) TO ' || grantee;
        END LOOP;
        IF owner <> current_user THEN
            EXECUTE format('ALTER FUNCTION outbox.emit(text, text, text, anycompatible, jsonb) OWNER TO %I', owner);
        END IF;
        BEGIN
            EXECUTE format('DROP FUNCTION outbox.emit(text, text, text, %s, jsonb)', payload);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            EXECUTE format('ALTER FUNCTION outbox.emit(text, text, text, %s, jsonb) RENAME TO emit_%1$s', payload);
            EXECUTE format($body$
                CREATE OR REPLACE FUNCTION outbox.emit_%1$s(
                    tenant_id text, event_type text, aggregate_id text, payload %1$s, headers jsonb DEFAULT NULL)
                    RETURNS uuid
                    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
                AS 'BEGIN RETURN outbox.emit(tenant_id, event_type, aggregate_id, payload, headers); END'$body$, payload);
        END;
    END LOOP;
END
$$;
