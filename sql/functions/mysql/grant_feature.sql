-- CALL tiergate_grant_feature(subject, feature, quantity, expires_at, note) → one row, id: gives a subject more of a
-- feature than its tier does.
-- quantity is in uses beyond the limit, in every window while the grant is open; NULL: unlimited.
-- It opens a feature that is not in the plan as well. Open grants add up. For a one-off top-up let it expire
-- when the window closes: feature_access.resets_at. expires_at is UTC; NULL: until tiergate_revoke_grant(id). note says why.
-- Who gave it is @tiergate_granted_by, where the session has set it, else the user that logged in.
-- tiergate_consume_feature goes by it from the commit on; the flag follows with the change stream, or when the sidecar
-- starts. Records the event granted. Everything is undone where the caller rolls back.
-- Errors, SQLSTATE 22023: no such feature, no such subject (NULL, '', '*', more than 191 characters),
-- a quantity below 1, an expires_at that is over. Cost: a few index lookups and two inserts.
CREATE PROCEDURE tiergate_grant_feature(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, IN p_quantity BIGINT, IN p_expires_at DATETIME(6),
    IN p_note TEXT @bin@)
MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_own BOOLEAN;
    DECLARE v_id BIGINT;
    DECLARE v_now DATETIME(6) DEFAULT @now@;
    DECLARE v_text TEXT @bin@;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        CALL tiergate_undo_work(v_own);
        RESIGNAL;
    END;

    CALL tiergate_begin_work(v_own);
    SET v_text = LEFT(CASE
        WHEN COALESCE(p_subject IN ('', '*') OR CHAR_LENGTH(p_subject) > 191, TRUE)
            THEN CONCAT(QUOTE(LEFT(p_subject, 40)), ' is no subject: pass the id that usage rows carry: 1 to 191 characters, and not *')
        WHEN NOT EXISTS (SELECT 1 FROM tiergate_plan p WHERE p.feature = p_feature)
            THEN CONCAT('no loop has feature ', QUOTE(LEFT(p_feature, 40)), COALESCE((SELECT CONCAT('; there is: ', LEFT(GROUP_CONCAT(DISTINCT p.feature SEPARATOR ', '), 50))
                FROM tiergate_plan p), ': start the sidecar: it stores the loops'))
        WHEN p_quantity < 1
            THEN CONCAT('quantity is ', p_quantity, ', and a grant gives at least 1: NULL is unlimited; revoke_grant(id) takes one back')
        WHEN p_expires_at <= v_now
            THEN CONCAT('expires_at is ', p_expires_at, ', and it is ', v_now, ': pass a time to come, or NULL')
    END, 128);
    IF v_text IS NOT NULL THEN
        SIGNAL SQLSTATE '22023' SET MESSAGE_TEXT = v_text;
    END IF;
    INSERT INTO tiergate_access_grant (subject_id, feature, quantity, expires_at, note, granted_by, granted_at)
    VALUES (p_subject, p_feature, p_quantity, IF(p_expires_at < '9999-12-31', p_expires_at, NULL), COALESCE(p_note, ''),
        LEFT(COALESCE(NULLIF(CONVERT(@tiergate_granted_by USING utf8mb4), ''), USER()), 255), v_now);
    SET v_id = LAST_INSERT_ID();
    CALL tiergate_grant_event('granted', p_subject, p_feature, v_now);
    CALL tiergate_end_work(v_own);
    SELECT v_id AS id;
END
