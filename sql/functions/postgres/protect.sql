-- tiergate.protect(table, feature, subject_column, force) → void: from now on the server itself refuses
-- a new row whose subject may not use the feature, with SQLSTATE 42501 and 'new row violates row-level
-- security policy "tiergate_FEATURE" for table …'. It adds one restrictive policy for INSERT, which calls
-- has_feature with the row's subject. Several features may protect a table: each must allow the row.
-- Where row security is off it is turned on, beside a policy "tiergate-all" that allows everything, so
-- that nothing else changes. force: the table's owners are subject to it too. Whoever may insert gets
-- EXECUTE on has_feature(text, text), and as schema tiergate stays closed to them, only the policy can
-- call it. Repeating it is harmless. Comments on the policies remember what unprotect has to take back.
-- Not checked: what superusers, roles with BYPASSRLS, and without force owners insert (a notice names
-- them); UPDATE; what is written to a partition directly. COPY is refused by PostgreSQL for everybody else,
-- and so is an insert through a view by a role that may not insert into the table: grant it EXECUTE.
-- The flag follows the stream: a burst, or one statement with many rows, may pass the limit. Exact is
-- consume_feature; the policy is a second line behind it, for which the row comes first, then the unit.
-- subject_column: any type; its text is the subject. NULL is a subject without a row.
-- To be run by a role that owns both the table and schema tiergate, or by a superuser.
-- Errors: 22023 (nothing to protect, or nobody whom it would hold), 42501, each with its way out.
-- Cost: ACCESS EXCLUSIVE on the table for a moment, then one has_feature for each new row.
CREATE OR REPLACE FUNCTION tiergate.protect("table" regclass, feature text, subject_column text, force boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policy text := 'tiergate_' || CASE WHEN octet_length(feature) > 54 THEN md5(feature) ELSE feature END;
    gate text;
    c pg_class;
    writer name;
BEGIN
    PERFORM tiergate.protect_arguments("table", feature, subject_column);
    gate := format('tiergate.has_feature(%I::text, %L)', subject_column, feature);
    SELECT * INTO c FROM pg_class WHERE oid = "table";
    IF NOT c.relrowsecurity THEN
        IF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tiergate-all') THEN
            EXECUTE format('CREATE POLICY "tiergate-all" ON %s USING (true) WITH CHECK (true)', "table");
            EXECUTE format('COMMENT ON POLICY "tiergate-all" ON %s IS %L', "table", 'Tiergate: row security was off, and all else is as it was');
        END IF;
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', "table");
    END IF;
    IF EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = policy) THEN
        EXECUTE format('ALTER POLICY %I ON %s WITH CHECK (%s)', policy, "table", gate);
    ELSE
        EXECUTE format('CREATE POLICY %I ON %s AS RESTRICTIVE FOR INSERT WITH CHECK (%s)', policy, "table", gate);
        EXECUTE format('COMMENT ON POLICY %I ON %s IS %L', policy, "table", 'Tiergate: a new row needs feature ' || feature);
    END IF;
    IF force AND NOT c.relforcerowsecurity THEN
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', "table");
        EXECUTE format('COMMENT ON POLICY %I ON %s IS %L', policy, "table", 'Tiergate: a new row needs feature ' || feature || '; it was forced upon owners');
    END IF;
    FOR writer IN SELECT w.role FROM tiergate.writers("table") w
        WHERE w.exempt IS NULL AND NOT has_function_privilege(w.role, 'tiergate.has_feature(text, text)', 'EXECUTE')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION tiergate.has_feature(text, text) TO %I', writer);
    END LOOP;
    PERFORM tiergate.protect_effect("table", feature);
END
$$;

-- The first part of protect: refuses what cannot be protected.
CREATE OR REPLACE FUNCTION tiergate.protect_arguments("table" regclass, feature text, subject_column text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c pg_class;
    owner name;
    message text;
    hint text;
BEGIN
    SELECT * INTO c FROM pg_class WHERE oid = "table";
    SELECT r.rolname INTO owner
    FROM unnest(ARRAY[c.relowner, (SELECT nspowner FROM pg_namespace WHERE nspname = 'tiergate')]) o JOIN pg_roles r ON r.oid = o
    WHERE NOT pg_has_role(current_user, o, 'USAGE') LIMIT 1;
    IF c.relkind IS NULL OR c.relkind NOT IN ('r', 'p') THEN
        message := format('%s is no table: row security is for tables only', coalesce("table"::text, 'NULL'));
        hint := 'protect the table behind it';
    ELSIF c.relispartition THEN
        message := format('%s is a partition', "table");
        hint := format('protect the whole: %s', pg_partition_root("table"));
    ELSIF owner IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('%s may not protect %s', current_user, "table"),
            HINT = format('it takes a superuser, or a role that owns the table and schema tiergate: GRANT %I TO %I', owner, current_user);
    ELSIF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = subject_column AND a.attnum > 0 AND NOT a.attisdropped) THEN
        message := format('%s has no column %s', "table", coalesce(quote_ident(subject_column), 'NULL'));
        hint := (SELECT 'its columns: ' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped);
    ELSIF NOT EXISTS (SELECT FROM tiergate.plan p WHERE p.feature = protect_arguments.feature) THEN
        message := format('no loop limits a feature %s', coalesce(quote_literal(feature), 'NULL'));
        hint := coalesce((SELECT 'there are: ' || string_agg(DISTINCT p.feature, ', ') FROM tiergate.plan p), 'run the sidecar once: it brings the loops'' features here');
    ELSIF NOT c.relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND coalesce(obj_description(p.oid, 'pg_policy') NOT LIKE 'Tiergate:%', true)) THEN
        message := format('%s has policies of its own while row security is off: to turn it on would wake them', "table");
        hint := format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY first, or drop them', "table");
    END IF;
    IF message IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = message, HINT = hint;
    END IF;
END
$$;

-- The last part of protect: looks at what has come of it, refuses, which undoes it, where it holds for
-- nobody or hides rows from the sidecar, and says what it does not cover.
CREATE OR REPLACE FUNCTION tiergate.protect_effect("table" regclass, feature text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held bigint;
    exempt text;
    way_out text;
    reader name;
    partitions text;
BEGIN
    IF has_any_column_privilege('public', "table", 'INSERT') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('PUBLIC may insert into %s, and is no role that could be let in', "table"),
            HINT = format('REVOKE INSERT ON %s FROM PUBLIC, and GRANT it to the roles that write', "table");
    END IF;
    SELECT count(*) FILTER (WHERE w.exempt IS NULL), string_agg(format('%I (%s)', w.role, w.exempt), ', ') FILTER (WHERE w.exempt IS NOT NULL),
           CASE WHEN bool_or(w.exempt = 'owner') THEN 'pass force => true, or let' ELSE 'let' END
    INTO held, exempt, way_out FROM tiergate.writers("table") w;
    IF held = 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('it would hold for nobody who may insert into %s: %s', "table", coalesce(exempt, 'no role may')),
            HINT = way_out || format(' the application connect as another role: CREATE ROLE app LOGIN; GRANT SELECT, INSERT ON %s TO app', "table");
    END IF;
    reader := (SELECT b.role FROM tiergate.blinded("table") b LIMIT 1);
    IF reader IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('row security would hide rows of %s from %I, as which the sidecar counts them', "table", reader),
            HINT = format('CREATE POLICY tiergate ON %s FOR SELECT TO %I USING (true), or ALTER ROLE %2$I BYPASSRLS', "table", reader);
    END IF;
    IF exempt IS NOT NULL THEN
        RAISE NOTICE USING MESSAGE = format('not checked: what is inserted into %s by %s', "table", exempt);
    END IF;
    SELECT string_agg(DISTINCT format('%s by %I', p.relid, w.role), ', ') INTO partitions
    FROM pg_partition_tree("table") p CROSS JOIN LATERAL tiergate.writers(p.relid) w WHERE p.level > 0 AND w.exempt IS NULL;
    IF partitions IS NOT NULL THEN
        RAISE NOTICE USING MESSAGE = 'not checked: what is written directly to ' || partitions, HINT = 'REVOKE INSERT on the partitions: the whole is enough to write';
    END IF;
    IF EXISTS (SELECT FROM tiergate.plan p WHERE p.feature = protect_effect.feature AND p.enforcement = 'strict') THEN
        RAISE NOTICE USING MESSAGE = format('%s is strict: its gate is consume_feature, and this a second line behind it', feature),
            HINT = 'insert the row first, then consume: the last unit shuts the policy too';
    END IF;
END
$$;
