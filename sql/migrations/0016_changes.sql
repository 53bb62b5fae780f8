-- Changes of subscriptions are on record whoever makes them: the API notes its own, with its caller, and this the others.

-- +goose Up

-- A subscription without its secrets: what is not named here is not shown.
-- +goose StatementBegin
CREATE FUNCTION relay.picture(s relay.subscriptions) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', s.id, 'tenant_id', s.tenant_id, 'url', s.url, 'events', s.events, 'filter', s.filter,
        'description', s.description, 'ordering', s.ordering, 'on_dead', s.on_dead, 'format', s.format, 'rate_limit', s.rate_limit,
        'retry_schedule', (SELECT jsonb_agg(ms || 'ms' ORDER BY place) FROM unnest(s.retry_schedule) WITH ORDINALITY AS w(ms, place)),
        'active', s.active, 'disabled_reason', s.disabled_reason, 'next_secret_staged_at', s.next_secret_staged_at,
        'created_at', s.created_at, 'updated_at', s.updated_at)
$$;
-- +goose StatementEnd

-- The actor is the relay itself, or an operator; which one and by which program is in address, which tenants do not see.
-- +goose StatementBegin
CREATE FUNCTION relay.note_subscription() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    program text := current_setting('application_name', true);
BEGIN
    IF coalesce(current_setting('relay.noted', true), '') = 'yes' THEN
        RETURN NULL;
    END IF;
    INSERT INTO relay.changes (tenant_id, actor, action, target, before, after, request_id, address)
    VALUES (CASE WHEN TG_OP = 'DELETE' THEN OLD.tenant_id ELSE NEW.tenant_id END,
            CASE WHEN program = 'relay' THEN 'relay' ELSE 'operator' END,
            CASE WHEN TG_OP = 'INSERT' THEN 'subscription.create'
                 WHEN TG_OP = 'DELETE' THEN 'subscription.delete'
                 WHEN OLD.secret <> NEW.secret OR OLD.next_secret IS DISTINCT FROM NEW.next_secret
                   OR OLD.previous_secret IS DISTINCT FROM NEW.previous_secret THEN 'secret.change'
                 WHEN NEW.active AND NOT OLD.active THEN 'subscription.enable'
                 WHEN OLD.active AND NOT NEW.active THEN 'subscription.disable'
                 ELSE 'subscription.update' END,
            CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END::text,
            CASE WHEN TG_OP <> 'INSERT' THEN relay.picture(OLD) END,
            CASE WHEN TG_OP <> 'DELETE' THEN relay.picture(NEW) END,
            '', session_user || ' ' || coalesce(program, ''));
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER note_subscription AFTER INSERT OR DELETE ON relay.subscriptions
    FOR EACH ROW EXECUTE FUNCTION relay.note_subscription();
-- Sealing secrets anew, and forgetting expired ones, is no change, and leaves updated_at.
CREATE TRIGGER note_subscription_update AFTER UPDATE ON relay.subscriptions
    FOR EACH ROW WHEN (OLD.updated_at <> NEW.updated_at OR relay.picture(OLD) <> relay.picture(NEW))
    EXECUTE FUNCTION relay.note_subscription();
