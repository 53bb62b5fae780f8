-- What a subscription's endpoint needs and is known for: a timeout of its own, when somebody last said that it works, and when
-- it is tried next.

-- +goose Up

--   timeout     of an attempt, in milliseconds; NULL: that of the configuration
--   enabled_at  when somebody last enabled it, whether it was active or not; the leader forgets the failures before. NULL: nobody has
ALTER TABLE relay.subscriptions
    ADD COLUMN timeout    bigint CHECK (timeout BETWEEN 10 AND 3600000),
    ADD COLUMN enabled_at timestamptz;

--   not_before    nothing is sent to the endpoint before: its circuit is open, or it has asked for a pause; NULL: it may be tried
--   circuit_open  one delivery at a time tries it, the soonest one, whatever time it waits for by itself
ALTER TABLE relay.failing
    ADD COLUMN not_before   timestamptz,
    ADD COLUMN circuit_open boolean NOT NULL DEFAULT false;

-- The timeout belongs into the picture.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION relay.picture(s relay.subscriptions) RETURNS jsonb
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
        'timeout', s.timeout || 'ms', 'active', s.active, 'disabled_reason', s.disabled_reason,
        'next_secret_staged_at', s.next_secret_staged_at, 'created_at', s.created_at, 'updated_at', s.updated_at);
END
$$;
-- +goose StatementEnd

-- Enabling what is active is on record as that.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION relay.note_subscription() RETURNS trigger
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
                     WHEN NEW.active AND (NOT OLD.active OR OLD.enabled_at IS DISTINCT FROM NEW.enabled_at) THEN 'subscription.enable'
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
