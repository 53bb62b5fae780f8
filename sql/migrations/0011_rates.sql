-- How fast a subscription wants its webhooks, when they are tried again, and what they look like.

-- +goose Up

--   rate_limit      attempts a second; NULL: as fast as it takes them
--   format          what the body is: our own envelope, or a CloudEvent
--   retry_schedule  wait before each attempt in milliseconds, as many attempts as items; NULL: that of the configuration
ALTER TABLE relay.subscriptions
    ADD COLUMN rate_limit double precision CHECK (rate_limit >= 0.01 AND rate_limit <= 1000),
    ADD COLUMN retry_schedule bigint[] CHECK (cardinality(retry_schedule) BETWEEN 1 AND 100 AND 0 <= ALL (retry_schedule)),
    ADD COLUMN format text NOT NULL DEFAULT 'webhook' CHECK (format IN ('webhook', 'cloudevents'));
