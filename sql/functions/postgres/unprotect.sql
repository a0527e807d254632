-- tiergate.unprotect(table) → void: takes back what protect did to a table, for all its features: the
-- policies, row security and force where protect had turned them on, and EXECUTE on has_feature from
-- roles that write no other protected table and have no way into schema tiergate but the policy.
-- A table that is not protected is left alone, with a notice.
-- Errors: 42501 for who does not own the table; 55000 where row security would go off under policies that
-- were made since. Cost: ACCESS EXCLUSIVE on the table for a moment.
CREATE OR REPLACE FUNCTION tiergate.unprotect("table" regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ours name[];
    others text;
    forced boolean;
    one name;
BEGIN
    SELECT array_agg(p.polname) FILTER (WHERE d.description LIKE 'Tiergate:%'), coalesce(bool_or(d.description LIKE 'Tiergate:%; it was forced upon owners'), false),
           string_agg(quote_ident(p.polname), ', ') FILTER (WHERE d.description IS NULL OR d.description NOT LIKE 'Tiergate:%')
    INTO ours, forced, others
    FROM pg_policy p LEFT JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_policy'::regclass AND d.objsubid = 0
    WHERE p.polrelid = "table";
    IF ours IS NULL THEN
        RAISE NOTICE '% is not protected', "table";
        RETURN;
    END IF;
    IF 'tiergate-all' = ANY (ours) AND others IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('row security was off on %s, and off it goes again: but it has other policies now: %s', "table", others),
            HINT = format('to keep it on: DROP POLICY "tiergate-all" ON %s; else drop the others; then unprotect', "table");
    END IF;
    FOREACH one IN ARRAY ours LOOP
        EXECUTE format('DROP POLICY %I ON %s', one, "table");
    END LOOP;
    IF 'tiergate-all' = ANY (ours) THEN
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', "table");
    END IF;
    IF forced THEN
        EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', "table");
    END IF;
    FOR one IN
        SELECT r.rolname FROM pg_proc f CROSS JOIN LATERAL aclexplode(f.proacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE f.oid = 'tiergate.has_feature(text, text)'::regprocedure AND NOT has_schema_privilege(a.grantee, 'tiergate', 'USAGE')
            AND r.rolname NOT IN (SELECT w.role FROM (SELECT DISTINCT p.polrelid FROM pg_policy p WHERE obj_description(p.oid, 'pg_policy') LIKE 'Tiergate:%') o
                CROSS JOIN LATERAL tiergate.writers(o.polrelid) w)
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION tiergate.has_feature(text, text) FROM %I', one);
    END LOOP;
END
$$;
