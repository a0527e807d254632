-- CALL tiergate_consume_feature(subject, feature, quantity) → one row: allowed, used, usage_limit, remaining, resets_at,
-- message: uses a feature whose loop has enforcement 'strict', exactly, in the caller's transaction. Pass 1 as the usual quantity.
-- It is a result set, and not OUT parameters, because every driver and ORM reads those, and OUT parameters of a session
-- need a second statement on the same connection, which a pool does not promise.
--
-- allowed    this consumption was granted, whole. If not, nothing was consumed, and message is the loop's.
-- quantity   in units of the limit. A negative one gives back, never below zero, and is always granted. Zero only
--            looks: it locks and writes nothing, and allowed says whether anything is left.
-- used, usage_limit, remaining, resets_at: the open window after this call; limit and remaining NULL = unlimited. Times are UTC.
--
-- It is rolled back with its transaction or savepoint. Without a transaction (autocommit) it is one by itself. It never
-- commits what the caller began. From the call to the end of the transaction the subject's row of this feature is locked: other
-- consumptions of the same subject and feature wait, other subjects do not. What counts is read after that lock is held.
-- Tier, plan and grants are what the transaction can see. In REPEATABLE READ, MySQL's default, that is the state at its first
-- plain SELECT: where another session has meanwhile written into the row what this one cannot see (a tier, a limit; with a rolling
-- or billing window anything), the call fails with SQLSTATE 40001: roll back and try again. A transaction that consumes
-- before it selects, and READ COMMITTED, never meet that.
-- A subject's first use makes its row. Where that is rolled back while others wait for it, InnoDB ends all of those but one
-- as a deadlock (error 1213, SQLSTATE 40001): try again. Rows that are there never deadlock within one subject and feature.
-- A deleted subject is refused, and gets no row. A refusal is recorded once an episode, if the caller commits.
--
-- Errors: SQLSTATE 22023 for a feature that no loop has or whose loop is not strict, a subject that is NULL, empty, '*' or
-- longer than 191 characters, and a quantity that is NULL; 40001 as said; 45000 where tiergate_calendar has come to its end.
-- After an error the transaction goes on as if there had been no call, except after 1213, which has rolled it back.
-- Cost: one locked row, five index lookups, one update of the row; a rolling window's buckets on top.
-- Not from triggers and functions: it returns a row.
CREATE PROCEDURE tiergate_consume_feature(IN p_subject TEXT @bin@, IN p_feature TEXT @bin@, IN p_quantity BIGINT)
MODIFIES SQL DATA SQL SECURITY DEFINER
BEGIN
    DECLARE v_own, v_allowed BOOLEAN;
    DECLARE v_used, v_limit, v_remaining BIGINT;
    DECLARE v_resets_at DATETIME(6);
    DECLARE v_message TEXT @bin@;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        CALL tiergate_undo_work(v_own);
        RESIGNAL;
    END;

    CALL tiergate_begin_work(v_own);
    CALL tiergate_consume(p_subject, p_feature, p_quantity, v_allowed, v_used, v_limit, v_remaining, v_resets_at, v_message);
    CALL tiergate_end_work(v_own);
    SELECT v_allowed AS allowed, v_used AS used, v_limit AS usage_limit, v_remaining AS remaining, v_resets_at AS resets_at, v_message AS message;
END
