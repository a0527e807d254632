-- Internal. tiergate_consume(subject, feature, quantity, OUT …): what tiergate_consume_feature does, within a transaction that
-- is open. It is sql/functions/postgres/consume_feature.sql, step by step; w_ is the row as it is stored, b_ as it becomes,
-- k_ what is known of subject, plan and grants, s_ the row as this transaction's snapshot has it.
--
-- Nothing is read but by locking before the row is locked: a plain SELECT would fix the snapshot of REPEATABLE READ before
-- the wait. Nothing is locked but by a whole primary key that is there, or by the insert: those lock no gaps, and so neither other
-- subjects nor the sidecar. INSERT … ON DUPLICATE KEY UPDATE is the only statement that finds a row or makes it without a gap lock.
CREATE PROCEDURE tiergate_consume(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, IN p_quantity BIGINT, OUT o_allowed BOOLEAN,
    OUT o_used BIGINT, OUT o_limit BIGINT, OUT o_remaining BIGINT, OUT o_resets_at DATETIME(6), OUT o_message TEXT @bin@)
MODIFIES SQL DATA SQL SECURITY DEFINER
work: BEGIN
    DECLARE most BIGINT DEFAULT 9223372036854775807;
    DECLARE w_allowed, b_allowed, k_deleted, k_unlimited, v_made, v_down, v_was_down BOOLEAN;
    DECLARE w_tier, w_reason, w_message, b_reason, b_message TEXT @bin@;
    DECLARE w_used, w_limit, w_remaining, w_episode, w_refused, b_used, b_episode, b_refused BIGINT;
    DECLARE w_start, w_resets_at, w_updated_at, w_closed_at, b_start, b_resets_at, b_closed_at DATETIME(6);
    DECLARE s_tier TEXT @bin@;
    DECLARE s_used, s_limit BIGINT;
    DECLARE s_updated_at DATETIME(6);
    DECLARE k_tier, k_status, k_loop, k_kind, k_unit, k_zone, k_warn_at, k_enforcement, k_message TEXT @bin@;
    DECLARE k_planned, k_length, k_resolution, k_limit BIGINT;
    DECLARE k_granted DECIMAL(65);
    DECLARE k_since, k_billing_start, k_billing_end DATETIME(6);
    DECLARE v_now, v_at DATETIME(6); -- v_at is the moment of this use
    DECLARE v_before BIGINT;         -- used, before this use
    DECLARE v_fraction, v_line, v_crossed DOUBLE; -- the uses at which a fraction of the limit is reached; the highest warning crossed
    DECLARE v_i INT DEFAULT 0;
    DECLARE v_over BOOLEAN;          -- the last bucket has rolled off, from no more than half of the lowest line
    DECLARE v_text TEXT @bin@;
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;

    IF COALESCE(p_subject IN ('', '*') OR CHAR_LENGTH(p_subject) > 191, TRUE) THEN
        SIGNAL SQLSTATE '22023' SET MESSAGE_TEXT = 'consume_feature: the subject is NULL, empty, ''*'' or longer than 191 characters';
    ELSEIF p_quantity IS NULL THEN
        SIGNAL SQLSTATE '22023' SET MESSAGE_TEXT = 'consume_feature: the quantity is NULL: positive consumes, negative gives back, zero looks';
    ELSEIF COALESCE(CHAR_LENGTH(p_feature) > 191, TRUE) THEN
        SET v_text = CONCAT('consume_feature: no loop has a feature ', QUOTE(LEFT(p_feature, 40)));
        SIGNAL SQLSTATE '22023' SET MESSAGE_TEXT = v_text;
    END IF;

    IF p_quantity = 0 THEN
        SELECT fa.allowed, fa.tier, fa.used, fa.usage_limit, fa.remaining, fa.period_start, fa.resets_at, fa.reason, fa.message,
               fa.updated_at, fa.episode, fa.closed_at, fa.refused_in
        INTO w_allowed, w_tier, w_used, w_limit, w_remaining, w_start, w_resets_at, w_reason, w_message, w_updated_at, w_episode, w_closed_at, w_refused
        FROM feature_access fa WHERE fa.subject_id = p_subject AND fa.feature = p_feature;
    ELSE
        INSERT INTO feature_access (subject_id, feature, allowed, tier, updated_at) VALUES (p_subject, p_feature, TRUE, '', '1970-01-01')
        ON DUPLICATE KEY UPDATE subject_id = feature_access.subject_id;
        SELECT fa.allowed, fa.tier, fa.used, fa.usage_limit, fa.remaining, fa.period_start, fa.resets_at, fa.reason, fa.message,
               fa.updated_at, fa.episode, fa.closed_at, fa.refused_in
        INTO w_allowed, w_tier, w_used, w_limit, w_remaining, w_start, w_resets_at, w_reason, w_message, w_updated_at, w_episode, w_closed_at, w_refused
        FROM feature_access fa WHERE fa.subject_id = p_subject AND fa.feature = p_feature FOR UPDATE;
    END IF;
    SET v_made = COALESCE(w_tier, '') = '', v_now = @now@;

    SELECT s.tier, s.status, s.deleted, s.since, s.billing_start, s.billing_end
    INTO k_tier, k_status, k_deleted, k_since, k_billing_start, k_billing_end
    FROM tiergate_subject s WHERE s.subject_id = p_subject;
    SET k_tier = COALESCE(k_tier, 'free');
    SELECT p.loop, p.usage_limit, p.window_kind, p.unit, p.length, p.resolution, p.zone, p.warn_at, p.enforcement, NULLIF(p.message, '')
    INTO k_loop, k_planned, k_kind, k_unit, k_length, k_resolution, k_zone, k_warn_at, k_enforcement, k_message
    FROM tiergate_plan p
    WHERE p.feature = p_feature AND p.tier IN (k_tier, 'paid', 'free')
    ORDER BY p.tier = k_tier DESC, p.tier = 'paid' DESC LIMIT 1;
    SELECT COALESCE(SUM(g.quantity), 0), COALESCE(MAX(g.quantity IS NULL), FALSE) INTO k_granted, k_unlimited
    FROM tiergate_access_grant g
    WHERE g.subject_id = p_subject AND g.feature = p_feature AND g.ended_at IS NULL AND (g.expires_at IS NULL OR g.expires_at > v_now);
    SET k_limit = IF(k_unlimited, NULL, NULLIF(LEAST(k_planned + k_granted, most), most));

    IF COALESCE(k_enforcement, '') <> 'strict' THEN
        SET v_text = LEFT(IF(k_enforcement IS NULL, CONCAT('consume_feature: no loop has a feature ', QUOTE(LEFT(p_feature, 40))),
            CONCAT('consume_feature: the loop of feature ', QUOTE(LEFT(p_feature, 20)), ' is not strict: set enforcement: ''strict'' in its step')), 128);
        SIGNAL SQLSTATE '22023' SET MESSAGE_TEXT = v_text;
    ELSEIF k_deleted THEN
        IF v_made AND p_quantity <> 0 THEN
            DELETE FROM feature_access WHERE subject_id = p_subject AND feature = p_feature;
        END IF;
        SET o_allowed = FALSE, o_used = 0, o_limit = k_limit, o_remaining = 0, o_message = 'this user was deleted';
        LEAVE work;
    END IF;

    IF v_made THEN
        SET w_used = 0, w_limit = k_limit, w_tier = k_tier, w_closed_at = k_since,
            w_episode = GREATEST(COALESCE((SELECT CAST(m.value AS SIGNED) FROM tiergate_meta m WHERE m.key = 'first_episode'), 0),
                COALESCE(TIMESTAMPDIFF(SECOND, '1970-01-01', k_since), 0));
        -- What is left of a row that was lost is no use of this one.
        IF p_quantity <> 0 AND EXISTS (SELECT 1 FROM tiergate_bucket b WHERE b.subject_id = p_subject AND b.feature = p_feature) THEN
            DELETE FROM tiergate_bucket WHERE subject_id = p_subject AND feature = p_feature;
        END IF;
    ELSEIF p_quantity <> 0 AND (k_kind IN ('rolling', 'billing') OR w_tier <> k_tier OR NOT w_limit <=> k_limit) THEN
        SELECT fa.tier, fa.used, fa.usage_limit, fa.updated_at INTO s_tier, s_used, s_limit, s_updated_at
        FROM feature_access fa WHERE fa.subject_id = p_subject AND fa.feature = p_feature;
        IF NOT (s_updated_at <=> w_updated_at AND s_tier <=> w_tier AND s_used <=> w_used AND s_limit <=> w_limit) THEN
            SIGNAL SQLSTATE '40001' SET MESSAGE_TEXT = 'consume_feature: the row was changed after this transaction''s first SELECT: roll back and try again, or use READ COMMITTED';
        END IF;
    END IF;

    SET b_used = w_used, b_start = w_start, b_resets_at = w_resets_at, b_episode = w_episode, b_closed_at = w_closed_at, b_refused = w_refused;
    IF k_since > COALESCE(w_closed_at, '1000-01-01') THEN -- this user was deleted while the row was held, and came back
        SET w_used = 0, b_used = 0, b_start = NULL, b_resets_at = NULL, b_closed_at = k_since,
            b_episode = GREATEST(b_episode + 1, TIMESTAMPDIFF(SECOND, '1970-01-01', k_since));
        IF p_quantity <> 0 AND EXISTS (SELECT 1 FROM tiergate_bucket b WHERE b.subject_id = p_subject AND b.feature = p_feature) THEN
            DELETE FROM tiergate_bucket WHERE subject_id = p_subject AND feature = p_feature;
        END IF;
    END IF;
    SET v_at = GREATEST(v_now, COALESCE(w_closed_at, v_now), COALESCE(w_start, v_now)); -- whoever had the lock before may have been ahead of our clock
    SET v_down = COALESCE(b_used >= w_limit OR w_limit = 0, FALSE);

    -- What time did: billing periods move, windows close, buckets roll off.
    IF k_kind = 'billing' AND k_billing_end > GREATEST(k_billing_start, v_at) THEN
        IF k_billing_start <= b_start THEN
            SET b_resets_at = k_billing_end;
        ELSEIF k_billing_start < b_resets_at THEN
            SET b_resets_at = LEAST(b_resets_at, GREATEST(k_billing_start, v_at));
        END IF;
    END IF;
    IF k_kind = 'rolling' THEN
        CALL tiergate_rolling_state(p_subject, p_feature, k_limit, v_at, b_used, o_resets_at, o_resets_at);
        SET b_used = COALESCE(b_used, 0);
        IF w_used <> b_used AND NOT EXISTS (SELECT 1 FROM tiergate_bucket b WHERE b.subject_id = p_subject AND b.feature = p_feature) THEN
            SET b_used = w_used; -- from before the window was a rolling one
            IF p_quantity <> 0 THEN
                CALL tiergate_rolling_add(p_subject, p_feature, w_used, COALESCE(w_start, v_at), k_length, k_resolution);
                CALL tiergate_rolling_state(p_subject, p_feature, k_limit, v_at, b_used, o_resets_at, o_resets_at);
                SET b_used = COALESCE(b_used, 0);
            END IF;
        END IF;
        SET v_line = FLOOR(IF(JSON_LENGTH(k_warn_at) = 0, w_limit, GREATEST(1, CEIL(JSON_EXTRACT(k_warn_at, '$[0]') * w_limit - 1e-9))) / 2);
        IF w_limit > 0 AND w_used > v_line AND b_used <= v_line THEN
            SET b_episode = b_episode + 1;
        END IF;
        IF w_resets_at <= v_at THEN -- nothing may be left, whatever the line was meanwhile
            SELECT b.rolls_off <= v_at AND (COALESCE(w_limit, 0) = 0 OR b.used <= v_line) INTO v_over FROM tiergate_bucket b
            WHERE b.subject_id = p_subject AND b.feature = p_feature ORDER BY b.start DESC LIMIT 1;
            IF v_over THEN
                SET b_episode = b_episode + 1;
            END IF;
        END IF;
    ELSEIF b_resets_at <= v_at THEN
        IF p_quantity <> 0 AND v_down AND w_limit > 0 THEN
            CALL tiergate_record_event('reset', p_subject, p_feature, k_loop, w_tier, b_used, w_limit, b_episode, b_resets_at, v_now,
                NULL, b_used - w_limit, FALSE);
        END IF;
        SET v_down = COALESCE(w_limit = 0, FALSE);
        SET b_closed_at = b_resets_at, b_start = NULL, b_resets_at = NULL, b_used = 0, b_episode = b_episode + 1;
    ELSEIF k_kind = 'lifetime' THEN
        SET b_start = NULL, b_resets_at = NULL;
    END IF;

    -- What tier, plan and grants did. Whoever writes a limit into the row says what that opened or shut.
    IF w_tier <> k_tier AND k_kind = 'lifetime' THEN
        SET b_episode = b_episode + 1;
    END IF;
    SET v_was_down = v_down, v_down = COALESCE(b_used >= k_limit OR k_limit = 0, FALSE);
    IF p_quantity <> 0 AND v_down <> v_was_down THEN
        CALL tiergate_record_event(IF(v_down, 'blocked', 'unblocked'), p_subject, p_feature, k_loop, k_tier, b_used, k_limit, b_episode, v_now, v_now,
            NULL, 0, v_down AND k_limit = 0);
    END IF;

    -- The use itself.
    SET v_before = b_used, v_was_down = v_down;
    SET o_allowed = CASE WHEN p_quantity > 0 THEN k_limit IS NULL OR (k_limit > 0 AND v_before <= k_limit - p_quantity)
        ELSE p_quantity < 0 OR NOT v_down END;
    IF o_allowed AND p_quantity > 0 THEN
        SET b_used = IF(v_before > most - p_quantity, most, v_before + p_quantity);
        IF k_kind = 'rolling' THEN
            CALL tiergate_rolling_add(p_subject, p_feature, p_quantity, v_at, k_length, k_resolution);
        ELSEIF b_resets_at IS NULL AND k_kind <> 'lifetime' THEN
            CALL tiergate_window_bounds(k_kind, k_unit, k_length, k_zone, k_billing_start, k_billing_end, v_at, b_closed_at, b_start, b_resets_at);
        END IF;
    ELSEIF p_quantity < 0 AND v_before > 0 THEN
        SET b_used = GREATEST(0, v_before + p_quantity);
        IF k_kind = 'rolling' THEN
            CALL tiergate_rolling_take(p_subject, p_feature, v_before - b_used, v_at);
        END IF;
    END IF;
    IF k_kind = 'rolling' THEN
        CALL tiergate_rolling_state(p_subject, p_feature, k_limit, v_at, o_used, b_start, b_resets_at);
    END IF;
    SET v_down = COALESCE(b_used >= k_limit OR k_limit = 0, FALSE), b_allowed = NOT v_down;
    SET o_used = b_used, o_limit = k_limit, o_resets_at = b_resets_at, o_message = IF(o_allowed, NULL, k_message),
        o_remaining = GREATEST(0, LEAST(CAST(k_limit AS DECIMAL(20)) - b_used, most));
    IF p_quantity = 0 THEN
        LEAVE work;
    END IF;

    SET b_message = IF(v_down, k_message, NULL), b_reason = CASE
        WHEN NOT v_down AND (b_used >= k_planned OR k_planned = 0) THEN 'granted'
        WHEN NOT v_down THEN NULL
        WHEN k_limit = 0 THEN 'not_in_plan'
        WHEN k_status = 'past_due' THEN 'past_due'
        ELSE 'limit_reached' END;
    IF NOT o_allowed AND NOT b_refused <=> b_episode THEN
        SET b_refused = b_episode;
        CALL tiergate_record_event('refused', p_subject, p_feature, k_loop, k_tier, b_used, k_limit, b_episode, v_now, v_now, NULL, 0, FALSE);
    ELSEIF o_allowed AND v_down <> v_was_down THEN
        CALL tiergate_record_event(IF(v_down, 'blocked', 'unblocked'), p_subject, p_feature, k_loop, k_tier, b_used, k_limit, b_episode, v_now, v_now,
            NULL, 0, FALSE);
    ELSEIF o_allowed AND NOT v_down AND p_quantity > 0 AND k_limit IS NOT NULL THEN
        WHILE v_i < JSON_LENGTH(k_warn_at) DO
            SET v_fraction = JSON_EXTRACT(k_warn_at, CONCAT('$[', v_i, ']')), v_i = v_i + 1;
            SET v_line = GREATEST(1, CEIL(v_fraction * k_limit - 1e-9));
            IF v_before < v_line AND v_line <= b_used THEN
                SET v_crossed = v_fraction;
            END IF;
        END WHILE;
        IF v_crossed IS NOT NULL THEN
            CALL tiergate_record_event('warned', p_subject, p_feature, k_loop, k_tier, b_used, k_limit, b_episode, v_now, v_now, v_crossed, 0, FALSE);
        END IF;
    END IF;
    IF v_made OR b_used <> w_used OR k_tier <> w_tier OR b_allowed <> w_allowed OR b_episode <> w_episode
            OR NOT (k_limit <=> w_limit AND o_remaining <=> w_remaining AND b_start <=> w_start AND b_resets_at <=> w_resets_at
                AND b_reason <=> w_reason AND b_message <=> w_message AND b_closed_at <=> w_closed_at AND b_refused <=> w_refused) THEN
        UPDATE feature_access fa
        SET fa.allowed = b_allowed, fa.tier = k_tier, fa.used = b_used, fa.usage_limit = k_limit, fa.remaining = o_remaining,
            fa.period_start = b_start, fa.resets_at = b_resets_at, fa.reason = b_reason, fa.message = b_message,
            fa.updated_at = v_now, fa.episode = b_episode, fa.closed_at = b_closed_at, fa.refused_in = b_refused
        WHERE fa.subject_id = p_subject AND fa.feature = p_feature;
    END IF;
END
