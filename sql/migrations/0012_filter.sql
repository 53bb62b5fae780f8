-- Subscriptions that want some events of their types, by what is in them.

-- +goose Up

--   filter       what the payload has to be like (docs/api.md); NULL: anything will do
--   rules_since  when events or filter last changed, NULL: not since the subscription was made; an event from
--                before need not have met the rules of now
ALTER TABLE relay.subscriptions
    ADD COLUMN filter json,
    ADD COLUMN rules_since timestamptz;

-- A trigger, so that it holds for whoever changes them.
-- +goose StatementBegin
CREATE FUNCTION relay.rules_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.rules_since := now();
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER rules_changed BEFORE UPDATE OF events, filter ON relay.subscriptions
    FOR EACH ROW WHEN (OLD.events IS DISTINCT FROM NEW.events OR OLD.filter::text IS DISTINCT FROM NEW.filter::text)
    EXECUTE FUNCTION relay.rules_changed();
