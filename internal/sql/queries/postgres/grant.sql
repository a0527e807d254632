-- name: granted by
SELECT set_config('tiergate.granted_by', $1, true);
-- name: grant
SELECT tiergate.grant_feature($1::text, $2, $3, $4, $5);
-- name: revoke
SELECT tiergate.revoke_grant($1);
-- name: explain
SELECT tiergate.explain_access($1::text, $2);
