-- The tables of the example. Every statement may run again.
CREATE SCHEMA IF NOT EXISTS backoffice;

CREATE TABLE IF NOT EXISTS backoffice.invoices (
    tenant_id  text        NOT NULL,
    id         text        NOT NULL,
    amount     numeric     NOT NULL CHECK (amount > 0),
    currency   text        NOT NULL,
    status     text        NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid')),
    created_at timestamptz NOT NULL DEFAULT now(),
    paid_at    timestamptz,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE IF NOT EXISTS backoffice.payment_links (
    id               uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id        text        NOT NULL,
    invoice_id       text        NOT NULL,
    amount           numeric     NOT NULL CHECK (amount > 0),
    currency         text        NOT NULL,
    description      text,
    status           text        NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'failed')),
    payment_id       text        CHECK (status = 'open' OR payment_id IS NOT NULL),
    payment_method   text,
    reference_number text,
    reason           text,
    error_code       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    settled_at       timestamptz,
    FOREIGN KEY (tenant_id, invoice_id) REFERENCES backoffice.invoices (tenant_id, id)
);

CREATE INDEX IF NOT EXISTS payment_links_invoice ON backoffice.payment_links (tenant_id, invoice_id);

CREATE TABLE IF NOT EXISTS backoffice.leads (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id  text        NOT NULL,
    name       text        NOT NULL,
    email      text,
    phone      text,
    type       text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS backoffice.sales_orders (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id     text        NOT NULL,
    order_number  text        NOT NULL,
    amount        numeric     NOT NULL CHECK (amount > 0),
    currency      text        NOT NULL,
    customer_id   text,
    customer_name text,
    items_count   integer     CHECK (items_count >= 0),
    status        text        NOT NULL DEFAULT 'created'
                  CHECK (status IN ('created', 'confirmed', 'delivered', 'cancelled')),
    cancel_reason text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, order_number)
);
