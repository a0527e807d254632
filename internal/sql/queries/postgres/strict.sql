-- name: drop rows
DELETE FROM %[1]s fa USING (SELECT subject_id, feature FROM %[1]s WHERE subject_id = ANY($1) AND feature <> ALL($2) FOR UPDATE SKIP LOCKED) free
WHERE fa.subject_id = free.subject_id AND fa.feature = free.feature;
-- name: end grants
UPDATE tiergate.access_grant g SET ended_at = u.ended FROM %s WHERE g.id = u.id AND g.ended_at IS NULL;
