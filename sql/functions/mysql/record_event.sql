-- Internal. tiergate_record_event(…): one row of access_event, which becomes an email when the stream brings it back.
CREATE PROCEDURE tiergate_record_event(IN p_kind TEXT @bin@, IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, IN p_loop TEXT @bin@,
    IN p_tier TEXT @bin@, IN p_used BIGINT, IN p_limit BIGINT, IN p_episode BIGINT, IN p_at DATETIME(6), IN p_now DATETIME(6),
    IN p_threshold DOUBLE, IN p_over_run BIGINT, IN p_silent BOOLEAN)
MODIFIES SQL DATA SQL SECURITY DEFINER
    INSERT INTO tiergate_access_event (at, recorded_at, kind, subject_id, feature, `loop`, tier, used, usage_limit, episode,
        threshold, position, silent, over_run)
    VALUES (p_at, p_now, p_kind, p_subject, p_feature, p_loop, p_tier, p_used, p_limit, p_episode, p_threshold, '', p_silent, p_over_run)
