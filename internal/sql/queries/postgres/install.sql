-- name: intact
SELECT EXISTS (SELECT FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = $1 AND t.relname = 'feature_access' AND obj_description(t.oid, 'pg_class') LIKE 'Tiergate:%');
