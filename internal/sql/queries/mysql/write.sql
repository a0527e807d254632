-- name: insert emails
INSERT INTO tiergate.email (event_id, subject_id, feature, "loop", kind, episode, template, status, reason, idempotency_key, next_at, created_at)
SELECT u.event_id, u.subject_id, u.feature, u."loop", u.kind, u.episode, u.template,
    CASE WHEN u.skip <> '' OR dup.id IS NOT NULL THEN 'skipped' ELSE 'queued' END,
    CASE WHEN u.skip <> '' THEN u.skip WHEN dup.id IS NOT NULL THEN $1 END,
    CASE WHEN u.skip = '' AND dup.id IS NULL THEN u."key" END, $2, $2
FROM %s
LEFT JOIN tiergate.email dup ON dup.idempotency_key = u."key" AND u.skip = '' AND dup.event_id <> u.event_id
LEFT JOIN tiergate.email had ON had.event_id = u.event_id
WHERE had.id IS NULL;
