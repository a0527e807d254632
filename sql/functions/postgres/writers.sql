-- tiergate.writers(table) → the roles that may insert into a table, each with the reason why row
-- security does not hold for it: superuser, BYPASSRLS or owner; NULL where it does. Members of a role
-- that is listed are not listed again. tiergate.exempt(role, table) → that reason for any role.
-- tiergate.blinded(table) → the roles as which the sidecar runs, where row security hides rows of a table
-- that it watches from them. Those are the ones that install gave the work to; else schema tiergate's owner.
-- All are parts of protect, unprotect and `sidecar check`. Never an error. Cost: catalog look-ups.
CREATE OR REPLACE FUNCTION tiergate.exempt(role oid, "table" regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN r.rolsuper THEN 'superuser'
                WHEN r.rolbypassrls THEN 'BYPASSRLS'
                WHEN pg_has_role(r.oid, c.relowner, 'USAGE') AND NOT c.relforcerowsecurity THEN 'owner' END
    FROM pg_roles r, pg_class c WHERE r.oid = exempt.role AND c.oid = exempt."table"
$$;

CREATE OR REPLACE FUNCTION tiergate.writers("table" regclass) RETURNS TABLE (role name, exempt text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.rolname, tiergate.exempt(r.oid, c.oid)
    FROM pg_class c CROSS JOIN LATERAL (
        SELECT a.grantee FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a WHERE a.privilege_type = 'INSERT'
        UNION
        SELECT a.grantee FROM pg_attribute f CROSS JOIN LATERAL aclexplode(f.attacl) a
        WHERE f.attrelid = c.oid AND NOT f.attisdropped AND a.privilege_type = 'INSERT'
        UNION
        SELECT m.member FROM pg_auth_members m WHERE m.roleid = 'pg_write_all_data'::regrole
    ) w JOIN pg_roles r ON r.oid = w.grantee
    WHERE c.oid = writers."table"
    ORDER BY 1
$$;

CREATE OR REPLACE FUNCTION tiergate.blinded("table" regclass) RETURNS TABLE (role name)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH work AS (
        SELECT a.grantee, a.grantee = k.relowner AS own
        FROM pg_class k CROSS JOIN LATERAL aclexplode(coalesce(k.relacl, acldefault('r', k.relowner))) a
        WHERE k.oid = 'tiergate.checkpoint'::regclass AND a.privilege_type = 'INSERT'
    )
    SELECT r.rolname
    FROM work w JOIN pg_roles r ON r.oid = w.grantee JOIN pg_class c ON c.oid = blinded."table"
    WHERE (NOT w.own OR NOT EXISTS (SELECT FROM work o WHERE NOT o.own))
        AND c.relrowsecurity AND tiergate.exempt(r.oid, c.oid) IS NULL
        AND EXISTS (SELECT FROM pg_publication_rel m JOIN pg_publication b ON b.oid = m.prpubid
                    WHERE m.prrelid = c.oid AND b.pubname IN ('tiergate_usage', 'tiergate_state'))
        AND (NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('r', '*')
                            AND pg_get_expr(p.polqual, p.polrelid) = 'true'
                            AND EXISTS (SELECT FROM unnest(p.polroles) m WHERE CASE WHEN m = 0 THEN true ELSE pg_has_role(r.oid, m, 'USAGE') END))
            OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND NOT p.polpermissive AND p.polcmd IN ('r', '*')))
$$;
