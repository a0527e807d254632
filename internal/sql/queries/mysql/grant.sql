-- name: granted by
SET @tiergate_granted_by = $1;
-- name: grant
CALL tiergate_grant_feature($1, $2, $3, $4, $5);
-- name: revoke
CALL tiergate_revoke_grant($1);
-- name: explain
CALL tiergate_explain_access($1, $2);
