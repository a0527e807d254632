-- Strict features, grants, billing and rolling windows.

-- What consume_feature needs to open and close windows by itself.
ALTER TABLE tiergate.plan
    ADD COLUMN unit       text,                               -- hour, day, week, month, year; NULL: a fixed length
    ADD COLUMN length     interval,                           -- of a window; NULL: a lifetime
    ADD COLUMN resolution interval,                           -- of the buckets of a rolling window
    ADD COLUMN warn_at    double precision[] NOT NULL DEFAULT '{}', -- ascending fractions of the limit
    ADD COLUMN grace      interval NOT NULL DEFAULT '0';      -- how long a renewal that nobody has seen is taken for granted

-- The period of the subscription that the tier comes from.
ALTER TABLE tiergate.subject
    ADD COLUMN billing_start timestamptz,
    ADD COLUMN billing_end   timestamptz;

-- What support people give beyond the tier. Rows are ended, never deleted; the stream carries them.
CREATE TABLE tiergate.access_grant (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject_id text NOT NULL,
    feature    text NOT NULL,
    quantity   bigint CHECK (quantity > 0),  -- beyond the limit, in every window; NULL: unlimited
    expires_at timestamptz,                  -- NULL: never
    note       text NOT NULL,
    granted_by text NOT NULL,
    granted_at timestamptz NOT NULL,
    ended_at   timestamptz                   -- when it was revoked, or expired
);
CREATE INDEX access_grant_open ON tiergate.access_grant (subject_id, feature) WHERE ended_at IS NULL;
CREATE INDEX access_grant_expires ON tiergate.access_grant (expires_at) WHERE ended_at IS NULL AND expires_at IS NOT NULL;

-- The uses of rolling windows, each until it rolls off.
CREATE TABLE tiergate.bucket (
    subject_id text NOT NULL,
    feature    text NOT NULL,
    start      timestamptz NOT NULL,
    rolls_off  timestamptz NOT NULL,
    used       bigint NOT NULL,
    PRIMARY KEY (subject_id, feature, start)
);
CREATE INDEX bucket_rolls_off ON tiergate.bucket (rolls_off);

-- Subjects whose strict rows somebody else held when the sidecar had to change them: it looks again.
CREATE TABLE tiergate.due (
    subject_id text PRIMARY KEY,
    at         timestamptz NOT NULL
);
CREATE INDEX due_at ON tiergate.due (at);

-- How far a count went beyond its limit: in async mode by what was served before the flag was seen.
ALTER TABLE tiergate.access_event ADD COLUMN over_run bigint NOT NULL DEFAULT 0;
-- A refusal is recorded once an episode.
CREATE INDEX access_event_refused ON tiergate.access_event (subject_id, feature, episode) WHERE kind = 'refused';

REVOKE ALL ON ALL TABLES IN SCHEMA tiergate FROM PUBLIC;
