-- name: end grants
UPDATE tiergate.access_grant g SET ended_at = u.ended FROM %s WHERE g.id = u.id AND g.ended_at IS NULL;
