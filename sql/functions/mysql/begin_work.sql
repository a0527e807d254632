-- Internal. tiergate_begin_work(OUT own): makes one unit of what the calling routine does: within the caller's transaction
-- as its own savepoint, and where there is none, and every statement would commit by itself, as a transaction (own = 1).
-- tiergate_end_work(own) ends the unit, tiergate_undo_work(own) takes it back. No statement of the three ends a transaction
-- that they have not begun.
CREATE PROCEDURE tiergate_begin_work(OUT o_own BOOLEAN)
MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE CONTINUE HANDLER FOR 1305 SET o_own = TRUE; -- outside of a transaction a savepoint is gone at once
    SET o_own = FALSE;
    SAVEPOINT tiergate;
    ROLLBACK TO SAVEPOINT tiergate;
    IF o_own THEN
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        START TRANSACTION;
    END IF;
END
