-- name: drop buckets
DELETE FROM tiergate.bucket b USING (SELECT subject_id, feature, start FROM tiergate.bucket WHERE feature <> ALL($1) FOR UPDATE SKIP LOCKED) free
WHERE b.subject_id = free.subject_id AND b.feature = free.feature AND b.start = free.start;
