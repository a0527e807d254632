-- name: system
SELECT CASE WHEN to_regproc('aurora_version') IS NULL THEN (SELECT system_identifier::text FROM pg_control_system()) ELSE 'aurora' END;
