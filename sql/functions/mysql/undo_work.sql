-- Internal. tiergate_undo_work(own): takes back what was done since tiergate_begin_work. A deadlock has taken back the caller's
-- transaction, and the savepoint with it: then there is nothing to do.
CREATE PROCEDURE tiergate_undo_work(IN p_own BOOLEAN)
MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE CONTINUE HANDLER FOR 1305 BEGIN END;
    IF p_own THEN
        ROLLBACK;
    ELSE
        ROLLBACK TO SAVEPOINT tiergate;
    END IF;
END
