-- Internal. tiergate.rolling_add(subject, feature, quantity, at, length, resolution): adds a use to the bucket of its
-- moment. The caller holds the lock of the subject's row. Buckets that have rolled off go when a new one is begun.
CREATE OR REPLACE FUNCTION tiergate.rolling_add(subject text, feature text, quantity bigint, at timestamptz, length interval,
    resolution interval) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    begins constant timestamptz := date_bin(resolution, at, 'epoch');
BEGIN
    UPDATE tiergate.bucket b SET used = least(b.used::numeric + quantity, 9223372036854775807)
    WHERE b.subject_id = subject AND b.feature = rolling_add.feature AND b.start = begins;
    IF NOT FOUND THEN
        DELETE FROM tiergate.bucket b
        WHERE b.subject_id = subject AND b.feature = rolling_add.feature AND b.rolls_off <= rolling_add.at;
        INSERT INTO tiergate.bucket (subject_id, feature, start, rolls_off, used)
        VALUES (subject, rolling_add.feature, begins, begins + length + resolution, quantity);
    END IF;
END
$$;
