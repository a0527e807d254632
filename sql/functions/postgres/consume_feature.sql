-- tiergate.consume_feature(subject, feature, quantity default 1) → allowed, used, usage_limit, remaining, resets_at,
-- message: uses a feature whose loop has enforcement 'strict', exactly, in the caller's transaction.
-- Call it in FROM, once: SELECT * FROM tiergate.consume_feature('ann', 'exports').
--
-- allowed    this consumption was granted, whole. If not, nothing was consumed, and message is the loop's.
-- quantity   in units of the limit. A negative one gives back, never below zero, and is always granted. Zero only
--            looks: it locks and writes nothing, and allowed says whether anything is left.
-- used, usage_limit, remaining, resets_at: the open window after this call; limit and remaining NULL = unlimited.
--
-- It is rolled back with its transaction or savepoint. From the call to the end of the transaction the subject's row of
-- this feature is locked: other consumptions of the same subject and feature wait. Tier, plan, grants and billing
-- period are read after that lock is held, so that neither a late sidecar nor the wait changes the answer; they are
-- what the sidecar knows. In REPEATABLE READ and SERIALIZABLE a concurrent consumption is SQLSTATE 40001, to be tried again.
-- A deleted subject is refused, and gets no becomes. A refusal is recorded once an episode, if the caller commits.
--
-- Errors: SQLSTATE 22023 for a feature that no loop has or whose loop is not strict, a subject that is NULL, empty, '*' or
-- longer than 512 bytes, and a quantity that is NULL.
-- Cost: one locked row, four index lookups, one update of the row (heap-only); a rolling window's buckets on top.
CREATE OR REPLACE FUNCTION tiergate.consume_feature(subject text, feature text, quantity bigint DEFAULT 1,
    OUT allowed boolean, OUT used bigint, OUT usage_limit bigint, OUT remaining bigint, OUT resets_at timestamptz, OUT message text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    was       @app@.feature_access;  -- the row as it is stored
    becomes   @app@.feature_access;  -- and as it will be
    known     record;                -- the subject, the plan of its tier, its grants
    now       constant timestamptz := tiergate.now();
    at        timestamptz;           -- of this use
    before    bigint;                -- used, before this use
    down      boolean;               -- the row is at its wall …
    was_down  boolean;               -- … and was, before the step at hand
    fraction  double precision;
    line      double precision;      -- the uses at which a fraction of the limit is reached
    crossed   double precision;      -- the highest warning that this use crosses
    over      boolean;               -- the last bucket has rolled off, from no more than half of the lowest line
    most      constant bigint := 9223372036854775807;
BEGIN
    IF subject IS NULL OR subject IN ('', '*') OR octet_length(subject) > 512 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'consume_feature: the subject is NULL, empty, ''*'' or longer than 512 bytes',
            HINT = 'pass the id that the usage table has in its subject column';
    ELSIF quantity IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'consume_feature: the quantity is NULL',
            HINT = 'pass a whole number: positive consumes, negative gives back, zero looks';
    END IF;

    LOOP
        IF quantity = 0 THEN
            SELECT * INTO was FROM @app@.feature_access fa
            WHERE fa.subject_id = subject AND fa.feature = consume_feature.feature;
        ELSE
            SELECT * INTO was FROM @app@.feature_access fa
            WHERE fa.subject_id = subject AND fa.feature = consume_feature.feature
            FOR NO KEY UPDATE;
        END IF;
        SELECT coalesce(s.tier, 'free') AS tier, s.status, coalesce(s.deleted, false) AS deleted, s.since, s.billing_start, s.billing_end,
               p.loop AS name, p.usage_limit AS planned, p.window_kind, p.unit, p.length, p.resolution, p.zone, p.warn_at,
               p.enforcement, nullif(p.message, '') AS message,
               CASE WHEN g.unlimited IS NOT TRUE THEN nullif(least(p.usage_limit + coalesce(g.quantity, 0), most), most)::bigint END AS usage_limit
        INTO known
        FROM (SELECT) one
        LEFT JOIN tiergate.subject s ON s.subject_id = subject
        LEFT JOIN LATERAL (
            SELECT * FROM tiergate.plan p
            WHERE p.feature = consume_feature.feature AND p.tier IN (coalesce(s.tier, 'free'), 'paid', 'free')
            ORDER BY p.tier = coalesce(s.tier, 'free') DESC, p.tier = 'paid' DESC LIMIT 1) p ON true
        LEFT JOIN LATERAL (
            SELECT sum(g.quantity) AS quantity, bool_or(g.quantity IS NULL) AS unlimited FROM tiergate.access_grant g
            WHERE g.subject_id = subject AND g.feature = consume_feature.feature AND g.ended_at IS NULL
                AND (g.expires_at IS NULL OR g.expires_at > now)) g ON true;
        IF known.enforcement IS DISTINCT FROM 'strict' THEN
            RAISE EXCEPTION USING ERRCODE = '22023',
                MESSAGE = format(CASE WHEN known.enforcement IS NULL THEN 'consume_feature: no loop has a feature %L'
                    ELSE 'consume_feature: the loop of feature %L is not strict' END, feature),
                HINT = CASE WHEN known.enforcement IS NULL THEN 'is it spelled as in the config, and has the sidecar run since it is there?'
                    ELSE 'set enforcement: ''strict'' in its step; otherwise insert usage rows, and ask has_feature' END;
        ELSIF known.deleted THEN
            allowed := false; used := 0; usage_limit := known.usage_limit; remaining := 0;
            message := 'this user was deleted';
            RETURN;
        END IF;
        EXIT WHEN was.subject_id IS NOT NULL;
        was.used := 0; was.usage_limit := known.usage_limit; was.tier := known.tier; was.closed_at := known.since;
        EXIT WHEN quantity = 0;
        -- The sidecar makes rows only while nobody holds this: it never waits for a row that we have not committed.
        PERFORM pg_advisory_xact_lock_shared(1413955924, 1000 + (hashtext(subject) & 63));
        DELETE FROM tiergate.bucket b WHERE b.subject_id = subject AND b.feature = consume_feature.feature
            AND NOT EXISTS (SELECT FROM @app@.feature_access fa WHERE fa.subject_id = subject AND fa.feature = consume_feature.feature);
        INSERT INTO @app@.feature_access (subject_id, feature, allowed, tier, usage_limit, updated_at, closed_at, episode)
        VALUES (subject, feature, true, was.tier, was.usage_limit, now, was.closed_at,
            greatest((SELECT m.value::bigint FROM tiergate.meta m WHERE m.key = 'first_episode'), floor(extract(epoch FROM known.since))::bigint, 0))
        ON CONFLICT DO NOTHING;
    END LOOP;

    becomes := was;
    IF known.since > coalesce(was.closed_at, '-infinity') THEN -- this user was deleted while the row was held, and came back
        was.used := 0;
        becomes.used := 0; becomes.period_start := NULL; becomes.resets_at := NULL; becomes.closed_at := known.since;
        becomes.episode := greatest(becomes.episode + 1, floor(extract(epoch FROM known.since))::bigint);
        IF quantity <> 0 THEN
            DELETE FROM tiergate.bucket b WHERE b.subject_id = subject AND b.feature = consume_feature.feature;
        END IF;
    END IF;
    usage_limit := known.usage_limit;
    at := greatest(now, was.closed_at, was.period_start); -- whoever had the lock before may have been called after us
    down := coalesce(becomes.used >= becomes.usage_limit OR becomes.usage_limit = 0, false);

    -- What time did: billing periods move, windows close, buckets roll off.
    IF known.window_kind = 'billing' AND known.billing_end > greatest(known.billing_start, at) THEN
        IF known.billing_start <= becomes.period_start THEN
            becomes.resets_at := known.billing_end;
        ELSIF known.billing_start < becomes.resets_at THEN
            becomes.resets_at := least(becomes.resets_at, greatest(known.billing_start, at));
        END IF;
    END IF;
    IF known.window_kind = 'rolling' THEN
        SELECT coalesce(r.used, 0) INTO becomes.used FROM tiergate.rolling_state(subject, feature, usage_limit, at) r;
        IF was.used <> becomes.used AND NOT EXISTS (
                SELECT FROM tiergate.bucket b WHERE b.subject_id = subject AND b.feature = consume_feature.feature) THEN
            becomes.used := was.used; -- from before the window was a rolling one
            IF quantity <> 0 THEN
                PERFORM tiergate.rolling_add(subject, feature, was.used, coalesce(was.period_start, at), known.length, known.resolution);
                SELECT coalesce(r.used, 0) INTO becomes.used FROM tiergate.rolling_state(subject, feature, usage_limit, at) r;
            END IF;
        END IF;
        line := floor(CASE WHEN known.warn_at = '{}' THEN was.usage_limit
            ELSE greatest(1, ceil(known.warn_at[1] * was.usage_limit - 1e-9)) END / 2);
        IF was.usage_limit > 0 AND was.used > line AND becomes.used <= line THEN
            becomes.episode := becomes.episode + 1;
        END IF;
        IF was.resets_at <= at THEN -- nothing may be left, whatever the line was meanwhile
            SELECT b.rolls_off <= at AND (coalesce(was.usage_limit, 0) = 0 OR b.used <= line) INTO over FROM tiergate.bucket b
            WHERE b.subject_id = subject AND b.feature = consume_feature.feature ORDER BY b.start DESC LIMIT 1;
            IF over THEN
                becomes.episode := becomes.episode + 1;
            END IF;
        END IF;
    ELSIF becomes.resets_at <= at THEN
        IF quantity <> 0 AND down AND becomes.usage_limit > 0 THEN
            PERFORM tiergate.record_event('reset', subject, feature, known.name, becomes.tier, becomes.used, becomes.usage_limit, becomes.episode,
                becomes.resets_at, over_run => becomes.used - becomes.usage_limit);
        END IF;
        down := coalesce(becomes.usage_limit = 0, false);
        becomes.closed_at := becomes.resets_at; becomes.period_start := NULL; becomes.resets_at := NULL;
        becomes.used := 0;
        becomes.episode := becomes.episode + 1;
    ELSIF known.window_kind = 'lifetime' THEN
        becomes.period_start := NULL; becomes.resets_at := NULL;
    END IF;

    -- What tier, plan and grants did. Whoever writes a limit into the row says what that opened or shut.
    IF becomes.tier <> known.tier AND known.window_kind = 'lifetime' THEN
        becomes.episode := becomes.episode + 1;
    END IF;
    becomes.tier := known.tier;
    becomes.usage_limit := usage_limit;
    was_down := down;
    down := coalesce(becomes.used >= usage_limit OR usage_limit = 0, false);
    IF quantity <> 0 AND down <> was_down THEN
        PERFORM tiergate.record_event(CASE WHEN down THEN 'blocked' ELSE 'unblocked' END, subject, feature, known.name, becomes.tier,
            becomes.used, usage_limit, becomes.episode, now, silent => down AND usage_limit = 0);
    END IF;

    -- The use itself.
    before := becomes.used;
    was_down := down;
    allowed := CASE WHEN quantity > 0 THEN usage_limit IS NULL OR (usage_limit > 0 AND before <= usage_limit - quantity)
        ELSE quantity < 0 OR NOT down END;
    IF allowed AND quantity > 0 THEN
        becomes.used := CASE WHEN before > most - quantity THEN most ELSE before + quantity END;
        IF known.window_kind = 'rolling' THEN
            PERFORM tiergate.rolling_add(subject, feature, quantity, at, known.length, known.resolution);
        ELSIF becomes.resets_at IS NULL AND known.window_kind <> 'lifetime' THEN
            SELECT b.period_start, b.resets_at INTO becomes.period_start, becomes.resets_at
            FROM tiergate.window_bounds(known.window_kind, known.unit, known.length, known.zone,
                known.billing_start, known.billing_end, at, becomes.closed_at) b;
        END IF;
    ELSIF quantity < 0 AND before > 0 THEN
        becomes.used := greatest(0, before + quantity);
        IF known.window_kind = 'rolling' THEN
            PERFORM tiergate.rolling_take(subject, feature, before - becomes.used, at);
        END IF;
    END IF;
    IF known.window_kind = 'rolling' THEN
        SELECT r.period_start, r.resets_at INTO becomes.period_start, becomes.resets_at
        FROM tiergate.rolling_state(subject, feature, usage_limit, at) r;
    END IF;
    down := coalesce(becomes.used >= usage_limit OR usage_limit = 0, false);
    becomes.allowed := NOT down;
    becomes.remaining := CASE WHEN usage_limit IS NOT NULL THEN greatest(0, least(usage_limit::numeric - becomes.used, most)) END;
    becomes.reason := CASE WHEN NOT down AND (becomes.used >= known.planned OR known.planned = 0) THEN 'granted'
        WHEN NOT down THEN NULL
        WHEN usage_limit = 0 THEN 'not_in_plan'
        WHEN known.status = 'past_due' THEN 'past_due'
        ELSE 'limit_reached' END;
    becomes.message := CASE WHEN down THEN known.message END;

    used := becomes.used; remaining := becomes.remaining; resets_at := becomes.resets_at;
    message := CASE WHEN NOT allowed THEN known.message END;
    IF quantity = 0 THEN
        RETURN;
    END IF;

    IF becomes IS DISTINCT FROM was THEN
        UPDATE @app@.feature_access fa
        SET allowed = becomes.allowed, tier = becomes.tier, used = becomes.used, usage_limit = becomes.usage_limit, remaining = becomes.remaining,
            period_start = becomes.period_start, resets_at = becomes.resets_at, reason = becomes.reason, message = becomes.message,
            updated_at = now, episode = becomes.episode, closed_at = becomes.closed_at
        WHERE fa.subject_id = subject AND fa.feature = consume_feature.feature;
    END IF;
    IF NOT allowed THEN
        IF NOT EXISTS (SELECT FROM tiergate.access_event e
                WHERE e.subject_id = subject AND e.feature = consume_feature.feature AND e.episode = becomes.episode AND e.kind = 'refused') THEN
            PERFORM tiergate.record_event('refused', subject, feature, known.name, becomes.tier, becomes.used, usage_limit, becomes.episode, now);
        END IF;
    ELSIF down <> was_down THEN
        PERFORM tiergate.record_event(CASE WHEN down THEN 'blocked' ELSE 'unblocked' END, subject, feature, known.name, becomes.tier,
            becomes.used, usage_limit, becomes.episode, now);
    ELSIF NOT down AND quantity > 0 AND usage_limit IS NOT NULL THEN
        FOREACH fraction IN ARRAY known.warn_at LOOP
            line := greatest(1, ceil(fraction * usage_limit - 1e-9));
            IF before < line AND line <= becomes.used THEN
                crossed := fraction;
            END IF;
        END LOOP;
        IF crossed IS NOT NULL THEN
            PERFORM tiergate.record_event('warned', subject, feature, known.name, becomes.tier, becomes.used, usage_limit, becomes.episode, now, crossed);
        END IF;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION tiergate.consume_feature(subject uuid, feature text, quantity bigint DEFAULT 1,
    OUT allowed boolean, OUT used bigint, OUT usage_limit bigint, OUT remaining bigint, OUT resets_at timestamptz, OUT message text)
LANGUAGE sql VOLATILE AS $$ SELECT * FROM tiergate.consume_feature(subject::text, feature, quantity) $$;

CREATE OR REPLACE FUNCTION tiergate.consume_feature(subject bigint, feature text, quantity bigint DEFAULT 1,
    OUT allowed boolean, OUT used bigint, OUT usage_limit bigint, OUT remaining bigint, OUT resets_at timestamptz, OUT message text)
LANGUAGE sql VOLATILE AS $$ SELECT * FROM tiergate.consume_feature(subject::text, feature, quantity) $$;
