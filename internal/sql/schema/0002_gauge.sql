-- Mirror of a usage table that holds counts: a delete names only the row's key, and a subject's rows add up.
CREATE TABLE tiergate.gauge (
    key        text PRIMARY KEY,
    subject_id text NOT NULL,
    endpoint   text NOT NULL,
    method     text NOT NULL,
    feature    text NOT NULL,
    value      bigint NOT NULL
);
CREATE INDEX gauge_subject ON tiergate.gauge (subject_id);
REVOKE ALL ON tiergate.gauge FROM PUBLIC;
