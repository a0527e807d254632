-- name: path
rtrim(split_part(coalesce(%s, ''), '?', 1), '/')
-- name: pattern
%s ~ %s
-- name: prefix
starts_with(%s, %s)
-- name: bucket start
date_bin('%[2]d seconds', %[1]s, timestamptz '1970-01-01 00:00:00+00')
-- name: bigint
%s::bigint
-- name: any
bool_or(%s)
-- name: text
%s::text
-- name: time as text
%s::text
-- name: trim
btrim(%s)
-- name: span
CASE WHEN %[1]s IS NOT NULL THEN greatest(least(%[1]s, '9999-12-31 23:59:59.999999+00'), '0001-01-01 00:00:00.000001+00') END
