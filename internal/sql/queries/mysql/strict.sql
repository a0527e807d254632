-- name: drop rows
DELETE fa FROM (SELECT subject_id, feature FROM %[1]s WHERE subject_id = ANY($1) AND feature <> ALL($2) FOR UPDATE SKIP LOCKED) free
STRAIGHT_JOIN %[1]s fa ON fa.subject_id = free.subject_id AND fa.feature = free.feature;
-- name: end grants
UPDATE %s STRAIGHT_JOIN tiergate.access_grant g ON g.id = u.id SET g.ended_at = u.ended WHERE g.ended_at IS NULL;
