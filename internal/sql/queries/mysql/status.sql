-- name: installed
SELECT EXISTS (SELECT 1 FROM information_schema.tables t WHERE t.table_schema = DATABASE() AND t.table_name = 'tiergate_checkpoint');
