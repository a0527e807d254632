-- name: intact
SELECT EXISTS (SELECT 1 FROM information_schema.tables t
    WHERE t.table_schema = $1 AND t.table_name = 'feature_access' AND t.table_comment LIKE 'Tiergate:%');
