-- name: end grants
UPDATE %s STRAIGHT_JOIN tiergate.access_grant g ON g.id = u.id SET g.ended_at = u.ended WHERE g.ended_at IS NULL;
