-- What the application reads. Made again, and counted again, where a migration tool dropped it.
CREATE TABLE IF NOT EXISTS feature_access (
    subject_id   VARCHAR(191) NOT NULL,
    feature      VARCHAR(191) NOT NULL,
    allowed      BOOLEAN NOT NULL,
    tier         VARCHAR(191) NOT NULL,
    used         BIGINT NOT NULL DEFAULT 0,
    usage_limit  BIGINT NULL,            -- NULL: unlimited
    remaining    BIGINT NULL,
    period_start DATETIME(6) NULL,       -- NULL: no window is open
    resets_at    DATETIME(6) NULL,
    reason       VARCHAR(64) NULL,
    message      TEXT NULL,
    updated_at   DATETIME(6) NOT NULL,
    episode      BIGINT NOT NULL DEFAULT 0, -- the sidecar's: rises when a window closes
    closed_at    DATETIME(6) NULL,       -- the sidecar's: end of the last window
    refused_in   BIGINT NULL,            -- consume_feature's: the last episode in which it recorded a refusal
    PRIMARY KEY (subject_id, feature),
    KEY feature_access_resets_at (resets_at)
) ENGINE = InnoDB DEFAULT @bin@ COMMENT = 'Tiergate: who may use what. Read it; the sidecar writes it.';
