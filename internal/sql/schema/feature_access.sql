-- What the application reads. Made again, and counted again, where a migration tool dropped it.
CREATE TABLE IF NOT EXISTS @app@.feature_access (
    subject_id   text NOT NULL,
    feature      text NOT NULL,
    allowed      boolean NOT NULL,
    tier         text NOT NULL,
    used         bigint NOT NULL DEFAULT 0,
    usage_limit  bigint,                 -- NULL: unlimited
    remaining    bigint,
    period_start timestamptz,            -- NULL: no window is open
    resets_at    timestamptz,
    reason       text,
    message      text,
    updated_at   timestamptz NOT NULL,
    episode      bigint NOT NULL DEFAULT 0, -- the sidecar's: rises when a window closes
    closed_at    timestamptz,            -- the sidecar's: end of the last window
    PRIMARY KEY (subject_id, feature)
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS feature_access_resets_at ON @app@.feature_access (resets_at) WHERE resets_at IS NOT NULL;
COMMENT ON TABLE @app@.feature_access IS 'Tiergate: who may use what. Read it; the sidecar writes it.';
REVOKE ALL ON @app@.feature_access FROM PUBLIC;
