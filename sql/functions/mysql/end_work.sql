-- Internal. tiergate_end_work(own): ends what tiergate_begin_work began.
CREATE PROCEDURE tiergate_end_work(IN p_own BOOLEAN)
MODIFIES SQL DATA SQL SECURITY DEFINER
    IF p_own THEN
        COMMIT;
    ELSE
        RELEASE SAVEPOINT tiergate;
    END IF
