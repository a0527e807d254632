-- name: path
TRIM(TRAILING '/' FROM SUBSTRING_INDEX(COALESCE(%s, ''), _utf8mb4 X'3F', 1))
-- name: pattern
%[1]s REGEXP CONCAT('(?s)', LEFT(%[2]s, CHAR_LENGTH(%[2]s) - 1), '\z')
-- name: prefix
LOCATE(%[2]s, %[1]s) = 1
-- name: bucket start
TIMESTAMPADD(SECOND, FLOOR(TIMESTAMPDIFF(SECOND, '1970-01-01', %[1]s) / %[2]d) * %[2]d, CAST('1970-01-01' AS DATETIME(6)))
-- name: bigint
CAST(%s AS SIGNED)
-- name: any
MAX(%s)
-- name: text
CAST(%s AS CHAR)
-- name: time as text
CONCAT(CAST(%s AS CHAR), '+00')
-- name: trim
TRIM(%s)
-- name: span
%s
