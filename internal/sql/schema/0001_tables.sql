-- The sidecar's own tables. Nothing of the application is touched: no triggers, no foreign keys.

CREATE SCHEMA IF NOT EXISTS tiergate;

-- What the installation knows of itself: version, installation, home, plan.
CREATE TABLE tiergate.meta (
    key   text PRIMARY KEY,
    value text NOT NULL
);

-- One row: where the flags stand in the change stream. Every apply moves seq; only the holder of
-- the newest term may.
CREATE TABLE tiergate.checkpoint (
    id          int PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    position    text NOT NULL DEFAULT '',
    seq         bigint NOT NULL DEFAULT 0,
    term        bigint NOT NULL DEFAULT 0,
    source_time timestamptz,             -- commit time of the newest change in the flags
    applied_at  timestamptz
);
INSERT INTO tiergate.checkpoint DEFAULT VALUES;

-- Who holds the lease; the advisory lock of that session is the lease itself.
CREATE TABLE tiergate.lease (
    id          int PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    term        bigint NOT NULL,
    holder      text NOT NULL,
    backend_pid int NOT NULL,
    acquired_at timestamptz NOT NULL
);

-- The loops, as far as functions need them.
CREATE TABLE tiergate.plan (
    feature     text NOT NULL,
    tier        text NOT NULL,
    loop        text NOT NULL,
    usage_limit bigint,                  -- NULL: unlimited
    window_kind text NOT NULL,
    period      text,
    zone        text,
    enforcement text NOT NULL,
    message     text NOT NULL,
    PRIMARY KEY (feature, tier)
);

CREATE TABLE tiergate.subject (
    subject_id text PRIMARY KEY,
    user_key   text,                     -- identity of its row in the users table
    tier       text NOT NULL,
    status     text NOT NULL DEFAULT '',
    tier_until timestamptz,              -- grace or trial end
    email      text,
    name       text,
    customer   text,
    deleted    boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL
);
CREATE INDEX subject_user_key ON tiergate.subject (user_key) WHERE user_key IS NOT NULL;
CREATE INDEX subject_tier_until ON tiergate.subject (tier_until) WHERE tier_until IS NOT NULL;

-- Mirror of the subscriptions table: a delete names only its key.
CREATE TABLE tiergate.subscription (
    key            text PRIMARY KEY,
    subject_id     text NOT NULL,
    status         text NOT NULL,
    plan           text NOT NULL,
    price          text NOT NULL,
    customer       text NOT NULL,
    period_start   timestamptz,
    period_end     timestamptz,
    past_due_since timestamptz
);
CREATE INDEX subscription_subject ON tiergate.subscription (subject_id);

-- Append-only. The inserts are in the change stream: an event becomes an email when it comes back.
CREATE TABLE tiergate.access_event (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL,    -- when it happened
    recorded_at timestamptz NOT NULL,
    kind        text NOT NULL,
    subject_id  text NOT NULL,
    feature     text NOT NULL,
    loop        text NOT NULL,
    tier        text NOT NULL,
    used        bigint NOT NULL,
    usage_limit bigint,
    episode     bigint NOT NULL,
    threshold   double precision,
    position    text NOT NULL,
    silent      boolean NOT NULL
);
CREATE INDEX access_event_subject ON tiergate.access_event (subject_id, id);

-- The outbox: one row an event that may mail.
CREATE TABLE tiergate.email (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id        bigint NOT NULL UNIQUE,
    subject_id      text NOT NULL,
    feature         text NOT NULL,
    loop            text NOT NULL,
    kind            text NOT NULL,
    episode         bigint NOT NULL,
    template        text NOT NULL,
    status          text NOT NULL CHECK (status IN ('queued', 'sending', 'sent', 'skipped', 'dead')),
    reason          text,                -- why skipped, or the last failure
    idempotency_key text UNIQUE,         -- NULL: skipped when it was decided
    request         jsonb,               -- the message, frozen before the first attempt
    attempts        int NOT NULL DEFAULT 0,
    first_try       timestamptz,
    next_at         timestamptz NOT NULL,
    provider_id     text,
    created_at      timestamptz NOT NULL,
    sent_at         timestamptz
);
CREATE INDEX email_due ON tiergate.email (next_at, id) WHERE status IN ('queued', 'sending');
CREATE INDEX email_open ON tiergate.email (status) WHERE status IN ('queued', 'sending', 'dead');
CREATE INDEX email_subject ON tiergate.email (subject_id);

REVOKE ALL ON SCHEMA tiergate FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA tiergate FROM PUBLIC;
