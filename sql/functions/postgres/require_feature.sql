-- tiergate.require_feature(subject, feature) → void: returns where the subject may use the feature,
-- raises SQLSTATE PT402 with the loop's message where not (PostgREST answers HTTP 402).
-- Records nothing. Cost: one index lookup, two where it raises.
CREATE OR REPLACE FUNCTION tiergate.require_feature(subject text, feature text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    said text;
BEGIN
    IF tiergate.has_feature(subject, feature) THEN
        RETURN;
    END IF;
    SELECT fa.message INTO said
    FROM @app@.feature_access fa
    WHERE fa.feature = require_feature.feature AND fa.subject_id IN (require_feature.subject, '*')
    ORDER BY fa.subject_id = '*'
    LIMIT 1;
    RAISE EXCEPTION USING ERRCODE = 'PT402',
        MESSAGE = coalesce(nullif(said, ''), format('%s is not available', feature));
END
$$;

CREATE OR REPLACE FUNCTION tiergate.require_feature(subject uuid, feature text) RETURNS void
LANGUAGE sql STABLE AS $$ SELECT tiergate.require_feature(subject::text, feature) $$;

CREATE OR REPLACE FUNCTION tiergate.require_feature(subject bigint, feature text) RETURNS void
LANGUAGE sql STABLE AS $$ SELECT tiergate.require_feature(subject::text, feature) $$;
