-- CALL tiergate_revoke_grant(id) → one row, revoked: ends a grant now. 0 where it has ended already: revoked, or expired.
-- tiergate_consume_feature goes by it from the commit on; the flag follows with the change stream, or when the sidecar
-- starts. Records the event revoked.
-- Errors: SQLSTATE 22023 for an id that no grant has. Cost: a few index lookups, an update and an insert.
CREATE PROCEDURE tiergate_revoke_grant(IN p_id BIGINT)
MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_own, v_revoked BOOLEAN;
    DECLARE v_subject, v_feature, v_text TEXT @bin@;
    DECLARE v_expires_at, v_ended_at, v_now DATETIME(6);
    DECLARE CONTINUE HANDLER FOR NOT FOUND BEGIN END;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        CALL tiergate_undo_work(v_own);
        RESIGNAL;
    END;

    CALL tiergate_begin_work(v_own);
    IF NOT EXISTS (SELECT 1 FROM tiergate_access_grant g WHERE g.id = p_id) THEN
        SET v_text = CONCAT('no grant has id ', COALESCE(p_id, 'NULL'), ': `sidecar grant list` shows them');
        SIGNAL SQLSTATE '22023' SET MESSAGE_TEXT = v_text;
    END IF;
    SELECT g.subject_id, g.feature, g.expires_at, g.ended_at INTO v_subject, v_feature, v_expires_at, v_ended_at
    FROM tiergate_access_grant g WHERE g.id = p_id FOR UPDATE;
    SET v_now = @now@;
    SET v_revoked = v_ended_at IS NULL AND COALESCE(v_expires_at > v_now, TRUE);
    IF v_revoked THEN
        UPDATE tiergate_access_grant g SET g.ended_at = v_now WHERE g.id = p_id;
        CALL tiergate_grant_event('revoked', v_subject, v_feature, v_now);
    END IF;
    CALL tiergate_end_work(v_own);
    SELECT v_revoked AS revoked;
END
