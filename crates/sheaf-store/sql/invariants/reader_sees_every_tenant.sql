-- Purpose: a reader that row-level security binds would find no counterexample anywhere, and mean nothing by it.
-- Parameters: none. Locks: none.
SELECT format('role %s is not the owner of the tables nor a member of it', current_user)
WHERE NOT pg_has_role('sheaf_owner', 'USAGE')
