-- The sidecar's own tables, in the application's database. Nothing of the application is touched: no triggers, no foreign keys.
-- They are those of PostgreSQL; times are UTC, lengths of time are microseconds, what is jsonb or an array there is JSON in text here.
-- @bin@ is utf8mb4 by code point, without padding: 'a' and 'a ' are two subjects, as 'a' and 'A' are.
-- A file may be run again where it was interrupted: DDL commits by itself.

-- What the installation knows of itself: version, installation, home, plan.
CREATE TABLE IF NOT EXISTS tiergate_meta (
    `key` VARCHAR(191) NOT NULL PRIMARY KEY,
    value LONGTEXT NOT NULL
) ENGINE = InnoDB DEFAULT @bin@;

-- One row: where the flags stand in the change stream. Every apply moves seq; only the holder of the newest term may.
CREATE TABLE IF NOT EXISTS tiergate_checkpoint (
    id          INT NOT NULL DEFAULT 1 PRIMARY KEY,
    position    LONGTEXT NOT NULL,
    seq         BIGINT NOT NULL DEFAULT 0,
    term        BIGINT NOT NULL DEFAULT 0,
    source_time DATETIME(6) NULL,        -- commit time of the newest change in the flags
    applied_at  DATETIME(6) NULL
) ENGINE = InnoDB DEFAULT @bin@;
INSERT IGNORE INTO tiergate_checkpoint (id, position) VALUES (1, '');

-- Who holds the lease.
CREATE TABLE IF NOT EXISTS tiergate_lease (
    id            INT NOT NULL DEFAULT 1 PRIMARY KEY,
    term          BIGINT NOT NULL,
    holder        VARCHAR(255) NOT NULL,
    connection_id BIGINT UNSIGNED NOT NULL,
    acquired_at   DATETIME(6) NOT NULL
) ENGINE = InnoDB DEFAULT @bin@;

-- The loops, as far as routines need them.
CREATE TABLE IF NOT EXISTS tiergate_plan (
    feature     VARCHAR(191) NOT NULL,
    tier        VARCHAR(191) NOT NULL,
    `loop`      VARCHAR(255) NOT NULL,
    usage_limit BIGINT NULL,             -- NULL: unlimited
    window_kind VARCHAR(20) NOT NULL,
    period      VARCHAR(64) NULL,
    zone        VARCHAR(64) NULL,
    enforcement VARCHAR(20) NOT NULL,
    message     TEXT NOT NULL,
    unit        VARCHAR(10) NULL,        -- hour, day, week, month, year; NULL: a fixed length
    length      BIGINT NULL,             -- of a window, in microseconds; NULL: a lifetime, or calendar months by unit
    resolution  BIGINT NULL,             -- of the buckets of a rolling window, in microseconds
    warn_at     VARCHAR(255) NOT NULL DEFAULT '[]', -- JSON: ascending fractions of the limit
    grace       BIGINT NOT NULL DEFAULT 0, -- microseconds for which a renewal that nobody has seen is taken for granted
    PRIMARY KEY (feature, tier)
) ENGINE = InnoDB DEFAULT @bin@;

-- Every calendar window of the plan's zones, made ahead of time: mysql.time_zone_name may be empty.
CREATE TABLE IF NOT EXISTS tiergate_calendar (
    zone      VARCHAR(64) NOT NULL,
    unit      VARCHAR(10) NOT NULL,
    starts_at DATETIME(6) NOT NULL,
    ends_at   DATETIME(6) NOT NULL,
    PRIMARY KEY (zone, unit, starts_at)
) ENGINE = InnoDB DEFAULT @bin@;

CREATE TABLE IF NOT EXISTS tiergate_subject (
    subject_id    VARCHAR(191) NOT NULL PRIMARY KEY,
    user_key      VARCHAR(512) NULL,     -- identity of its row in the users table
    tier          VARCHAR(191) NOT NULL,
    status        VARCHAR(191) NOT NULL DEFAULT '',
    tier_until    DATETIME(6) NULL,      -- grace or trial end
    email         TEXT NULL,
    name          TEXT NULL,
    customer      TEXT NULL,
    deleted       BOOLEAN NOT NULL DEFAULT FALSE,
    updated_at    DATETIME(6) NOT NULL,
    since         DATETIME(6) NULL,      -- when a deleted user came back: what was used before does not count
    billing_start DATETIME(6) NULL,      -- the period of the subscription that the tier comes from
    billing_end   DATETIME(6) NULL,
    KEY tiergate_subject_user_key (user_key),
    KEY tiergate_subject_tier_until (tier_until)
) ENGINE = InnoDB DEFAULT @bin@;

-- Mirror of the subscriptions table.
CREATE TABLE IF NOT EXISTS tiergate_subscription (
    `key`          VARCHAR(512) NOT NULL PRIMARY KEY,
    subject_id     VARCHAR(191) NOT NULL,
    status         VARCHAR(191) NOT NULL,
    plan           TEXT NOT NULL,
    price          TEXT NOT NULL,
    customer       TEXT NOT NULL,
    period_start   DATETIME(6) NULL,
    period_end     DATETIME(6) NULL,
    past_due_since DATETIME(6) NULL,
    KEY tiergate_subscription_subject (subject_id)
) ENGINE = InnoDB DEFAULT @bin@;

-- Append-only. The inserts are in the change stream: an event becomes an email when it comes back.
CREATE TABLE IF NOT EXISTS tiergate_access_event (
    id          BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    at          DATETIME(6) NOT NULL,    -- when it happened
    recorded_at DATETIME(6) NOT NULL,
    kind        VARCHAR(20) NOT NULL,
    subject_id  VARCHAR(191) NOT NULL,
    feature     VARCHAR(191) NOT NULL,
    `loop`      VARCHAR(255) NOT NULL,
    tier        VARCHAR(191) NOT NULL,
    used        BIGINT NOT NULL,
    usage_limit BIGINT NULL,
    episode     BIGINT NOT NULL,
    threshold   DOUBLE NULL,
    position    TEXT NOT NULL,
    silent      BOOLEAN NOT NULL,
    over_run    BIGINT NOT NULL DEFAULT 0, -- in async mode: what was served before the flag was seen
    KEY tiergate_access_event_subject (subject_id, id),
    KEY tiergate_access_event_recorded (recorded_at)
) ENGINE = InnoDB DEFAULT @bin@;

-- The outbox: one row an event that may mail.
CREATE TABLE IF NOT EXISTS tiergate_email (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    event_id        BIGINT NOT NULL UNIQUE,
    subject_id      VARCHAR(191) NOT NULL,
    feature         VARCHAR(191) NOT NULL,
    `loop`          VARCHAR(255) NOT NULL,
    kind            VARCHAR(20) NOT NULL,
    episode         BIGINT NOT NULL,
    template        VARCHAR(191) NOT NULL,
    status          VARCHAR(10) NOT NULL, -- queued, sending, sent, skipped, dead
    reason          TEXT NULL,           -- why skipped, or the last failure
    idempotency_key VARCHAR(255) NULL UNIQUE, -- NULL: skipped when it was decided
    request         LONGTEXT NULL,       -- the message, as JSON, frozen before the first attempt
    attempts        INT NOT NULL DEFAULT 0,
    first_try       DATETIME(6) NULL,
    next_at         DATETIME(6) NOT NULL,
    provider_id     VARCHAR(255) NULL,
    created_at      DATETIME(6) NOT NULL,
    sent_at         DATETIME(6) NULL,
    KEY tiergate_email_due (status, next_at, id),
    KEY tiergate_email_subject (subject_id)
) ENGINE = InnoDB DEFAULT @bin@;

-- Mirror of a usage table that holds counts: a subject's rows add up.
CREATE TABLE IF NOT EXISTS tiergate_gauge (
    `key`      VARCHAR(512) NOT NULL PRIMARY KEY,
    subject_id VARCHAR(191) NOT NULL,
    endpoint   TEXT NOT NULL,
    method     VARCHAR(191) NOT NULL,
    feature    VARCHAR(191) NOT NULL,
    value      BIGINT NOT NULL,
    KEY tiergate_gauge_subject (subject_id)
) ENGINE = InnoDB DEFAULT @bin@;

-- What support people give beyond the tier. Rows are ended, never deleted; the stream carries them.
CREATE TABLE IF NOT EXISTS tiergate_access_grant (
    id         BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    subject_id VARCHAR(191) NOT NULL,
    feature    VARCHAR(191) NOT NULL,
    quantity   BIGINT NULL,              -- above 0, beyond the limit, in every window; NULL: unlimited
    expires_at DATETIME(6) NULL,         -- NULL: never
    note       TEXT NOT NULL,
    granted_by VARCHAR(255) NOT NULL,
    granted_at DATETIME(6) NOT NULL,
    ended_at   DATETIME(6) NULL,         -- when it was revoked, or expired
    KEY tiergate_access_grant_subject (subject_id, feature, ended_at),
    KEY tiergate_access_grant_expires (ended_at, expires_at)
) ENGINE = InnoDB DEFAULT @bin@;

-- The uses of rolling windows, each until it rolls off.
CREATE TABLE IF NOT EXISTS tiergate_bucket (
    subject_id VARCHAR(191) NOT NULL,
    feature    VARCHAR(191) NOT NULL,
    start      DATETIME(6) NOT NULL,
    rolls_off  DATETIME(6) NOT NULL,
    used       BIGINT NOT NULL,
    PRIMARY KEY (subject_id, feature, start),
    KEY tiergate_bucket_rolls_off (rolls_off)
) ENGINE = InnoDB DEFAULT @bin@;

-- Subjects whose strict rows somebody else held when the sidecar had to change them: it looks again.
CREATE TABLE IF NOT EXISTS tiergate_due (
    subject_id VARCHAR(191) NOT NULL PRIMARY KEY,
    at         DATETIME(6) NOT NULL,
    KEY tiergate_due_at (at)
) ENGINE = InnoDB DEFAULT @bin@;
