-- tiergate.revoke_grant(id) → boolean: ends a grant now. False where it has ended already: revoked, or expired.
-- consume_feature goes by it from the commit on; the flag follows with the change stream, or when the sidecar
-- starts. Records the event revoked.
-- Errors: SQLSTATE 22023 for an id that no grant has. Cost: a few index lookups, an update and an insert.
CREATE OR REPLACE FUNCTION tiergate.revoke_grant(id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ended record;
BEGIN
    UPDATE tiergate.access_grant g SET ended_at = tiergate.now()
    WHERE g.id = revoke_grant.id AND g.ended_at IS NULL AND (g.expires_at IS NULL OR g.expires_at > tiergate.now())
    RETURNING g.subject_id, g.feature INTO ended;
    IF FOUND THEN
        PERFORM tiergate.grant_event('revoked', ended.subject_id, ended.feature);
        RETURN true;
    END IF;
    IF NOT EXISTS (SELECT FROM tiergate.access_grant g WHERE g.id = revoke_grant.id) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('no grant has id %s', coalesce(id::text, 'NULL')),
            HINT = '`sidecar grant list` shows them';
    END IF;
    RETURN false;
END
$$;
