-- Changes of subscriptions are on record whoever makes them: the API notes its own, with its caller, and this the others.

-- +goose Up

-- A subscription without its secrets: what is not named here is not shown. It must not fail, for whatever other hands wrote:
-- json holds what jsonb does not.
-- +goose StatementBegin
CREATE FUNCTION relay.picture(s relay.subscriptions) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted jsonb;
BEGIN
    BEGIN
        wanted := s.filter::jsonb;
    EXCEPTION WHEN others THEN
        wanted := to_jsonb(s.filter::text);
    END;
    RETURN jsonb_build_object('id', s.id, 'tenant_id', s.tenant_id, 'url', s.url, 'events', s.events, 'filter', wanted,
        'description', s.description, 'ordering', s.ordering, 'on_dead', s.on_dead, 'format', s.format, 'rate_limit', s.rate_limit,
        'retry_schedule', (SELECT jsonb_agg(ms || 'ms' ORDER BY place) FROM unnest(s.retry_schedule) WITH ORDINALITY AS w(ms, place)),
        'active', s.active, 'disabled_reason', s.disabled_reason, 'next_secret_staged_at', s.next_secret_staged_at,
        'created_at', s.created_at, 'updated_at', s.updated_at);
END
$$;
-- +goose StatementEnd

-- The actor is the relay itself, or an operator; which one and by which program is in address, which tenants do not see.
-- Whoever may change subscriptions needs no right on the record.
-- +goose StatementBegin
CREATE FUNCTION relay.note_subscription() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    program text := current_setting('application_name', true);
    was jsonb;
    is_now jsonb;
    moved boolean := false;
    done text;
BEGIN
    IF coalesce(current_setting('relay.noted', true), '') = 'yes' THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        was := relay.picture(OLD);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        is_now := relay.picture(NEW);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF was = is_now THEN
            RETURN NULL; -- secrets were sealed anew, or expired ones forgotten
        END IF;
        moved := OLD.tenant_id <> NEW.tenant_id;
        done := CASE WHEN OLD.secret <> NEW.secret OR OLD.next_secret IS DISTINCT FROM NEW.next_secret
                       OR OLD.previous_secret IS DISTINCT FROM NEW.previous_secret THEN 'secret.change'
                     WHEN NEW.active AND NOT OLD.active THEN 'subscription.enable'
                     WHEN OLD.active AND NOT NEW.active THEN 'subscription.disable'
                     ELSE 'subscription.update' END;
    END IF;
    IF TG_OP = 'DELETE' OR moved THEN -- each tenant sees its own side
        INSERT INTO relay.changes (tenant_id, actor, action, target, before, request_id, address)
        VALUES (OLD.tenant_id, CASE WHEN program = 'relay' THEN 'relay' ELSE 'operator' END, 'subscription.delete', OLD.id::text, was,
                '', session_user || ' ' || coalesce(program, ''));
        was := NULL;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO relay.changes (tenant_id, actor, action, target, before, after, request_id, address)
        VALUES (NEW.tenant_id, CASE WHEN program = 'relay' THEN 'relay' ELSE 'operator' END,
                CASE WHEN TG_OP = 'INSERT' OR moved THEN 'subscription.create' ELSE done END, NEW.id::text, was, is_now,
                '', session_user || ' ' || coalesce(program, ''));
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER note_subscription AFTER INSERT OR UPDATE OR DELETE ON relay.subscriptions
    FOR EACH ROW EXECUTE FUNCTION relay.note_subscription();
