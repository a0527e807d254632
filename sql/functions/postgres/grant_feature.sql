-- tiergate.grant_feature(subject, feature, quantity, expires_at, note) → bigint: gives a subject more of a
-- feature than its tier does, and returns the grant's id.
-- quantity is in uses beyond the limit, in every window while the grant is open; NULL, or left out: unlimited.
-- It opens a feature that is not in the plan as well. Open grants add up. For a one-off top-up let it expire
-- when the window closes: feature_access.resets_at. expires_at NULL: until revoke_grant(id). note says why.
-- Who gave it is the setting tiergate.granted_by, where the session has it, else the role that logged in.
-- consume_feature goes by it from the commit on; the flag follows with the change stream, or when the sidecar
-- starts. Records the event granted. Everything is undone where the caller rolls back.
-- Errors, SQLSTATE 22023 with a hint: no such feature, no such subject ('', '*', more than 512 bytes),
-- a quantity below 1, an expires_at that is over. Cost: a few index lookups and two inserts.
CREATE OR REPLACE FUNCTION tiergate.grant_feature(subject text, feature text, quantity bigint DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL, note text DEFAULT '') RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    moment timestamptz := tiergate.now();
    made bigint;
BEGIN
    IF coalesce(subject IN ('', '*') OR octet_length(subject) > 512, true) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('%s is no subject', quote_nullable(left(subject, 60))),
            HINT = 'pass the id that usage rows carry: 1 to 512 bytes, and not *';
    END IF;
    IF NOT EXISTS (SELECT FROM tiergate.plan p WHERE p.feature = grant_feature.feature) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('no loop has feature %s', quote_nullable(feature)),
            HINT = (SELECT coalesce('there is: ' || string_agg(DISTINCT p.feature, ', '), 'start the sidecar: it stores the loops')
                    FROM tiergate.plan p);
    END IF;
    IF quantity < 1 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('quantity is %s, and a grant gives at least 1', quantity),
            HINT = 'NULL is unlimited; revoke_grant(id) takes a grant back';
    END IF;
    IF expires_at <= moment THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('expires_at is %s, and it is %s', expires_at, moment),
            HINT = 'pass a time to come; NULL is until revoke_grant(id)';
    END IF;
    INSERT INTO tiergate.access_grant (subject_id, feature, quantity, expires_at, note, granted_by, granted_at)
    VALUES (subject, feature, quantity, CASE WHEN expires_at < '9999-12-31' THEN expires_at END, coalesce(note, ''),
        coalesce(nullif(current_setting('tiergate.granted_by', true), ''), session_user), moment)
    RETURNING access_grant.id INTO made;
    PERFORM tiergate.grant_event('granted', subject, feature);
    RETURN made;
END
$$;

CREATE OR REPLACE FUNCTION tiergate.grant_feature(subject uuid, feature text, quantity bigint DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL, note text DEFAULT '') RETURNS bigint
LANGUAGE sql AS $$ SELECT tiergate.grant_feature(subject::text, feature, quantity, expires_at, note) $$;

CREATE OR REPLACE FUNCTION tiergate.grant_feature(subject bigint, feature text, quantity bigint DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL, note text DEFAULT '') RETURNS bigint
LANGUAGE sql AS $$ SELECT tiergate.grant_feature(subject::text, feature, quantity, expires_at, note) $$;
