-- Purpose: the roles that the schema grants to, where the cluster lacks them. Roles belong to the cluster, not to the
--   database, so that no migration can own them. Needs CREATEROLE, not superuser. Only a superuser can give the right to
--   replicate, which sheaf_cdc needs to follow changes; where another migrates, an administrator gives it.
-- Parameters: none. Locks: none that matter. Two at once: the loser of the race finds the role there.
DO $roles$
DECLARE
    wanted text;
    is_superuser CONSTANT boolean := (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user);
BEGIN
    FOREACH wanted IN ARRAY ARRAY['sheaf_owner', 'sheaf_upkeep', 'sheaf_app', 'sheaf_search', 'sheaf_writer', 'sheaf_cdc']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I %s %s NOSUPERUSER NOCREATEDB NOCREATEROLE', wanted,
                    CASE wanted WHEN 'sheaf_owner' THEN 'NOLOGIN' ELSE 'LOGIN' END,
                    CASE WHEN wanted = 'sheaf_cdc' AND is_superuser THEN 'REPLICATION' END);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
    -- Made by a version before. Two at once: the loser finds the row changed under it, to what it wanted.
    IF is_superuser AND NOT (SELECT rolreplication FROM pg_catalog.pg_roles WHERE rolname = 'sheaf_cdc') THEN
        BEGIN
            ALTER ROLE sheaf_cdc REPLICATION;
        EXCEPTION WHEN internal_error THEN
            NULL;
        END;
    END IF;
    -- Whatever the database's default: statements of ours see what was committed before them. A server that finds another level
    -- does not start.
    FOREACH wanted IN ARRAY ARRAY['sheaf_upkeep', 'sheaf_app', 'sheaf_search', 'sheaf_writer', 'sheaf_cdc']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
                WHERE r.rolname = wanted AND s.setdatabase = 0 AND 'default_transaction_isolation=read committed' = ANY (s.setconfig)) THEN
            BEGIN
                EXECUTE format('ALTER ROLE %I SET default_transaction_isolation = %L', wanted, 'read committed');
            EXCEPTION WHEN insufficient_privilege OR internal_error OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
    IF NOT pg_has_role('sheaf_upkeep', 'sheaf_owner', 'MEMBER') THEN
        GRANT sheaf_owner TO sheaf_upkeep;
    END IF;
    IF NOT pg_has_role(current_user, 'sheaf_owner', 'MEMBER') THEN
        EXECUTE format('GRANT sheaf_owner TO %I', current_user);
    END IF;
    EXECUTE format('GRANT CREATE ON DATABASE %I TO sheaf_owner', current_database());
END
$roles$;
