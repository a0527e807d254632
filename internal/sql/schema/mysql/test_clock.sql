-- A clock that can be moved, for tests: installed only with test_clock. Routines then read it for @now@.
CREATE TABLE IF NOT EXISTS tiergate_clock (
    id    INT NOT NULL DEFAULT 1 PRIMARY KEY,
    shift BIGINT NOT NULL                -- microseconds
) ENGINE = InnoDB;
INSERT IGNORE INTO tiergate_clock (id, shift) VALUES (1, 0);
