-- Purpose: whether no query sees a partition that was put back, as its detachment was interrupted, and whether one after it is on its way
--   to be archived. After it was put back, in that transaction: nobody begins with another one until it ends.
-- Parameters: partition_name. Index: partition_archives_pkey, the catalogue's own. Locks: none.
SELECT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = to_regclass(format('sheaf.%I', $1::text)) AND i.inhdetachpending) AS is_leaving,
    EXISTS (SELECT FROM sheaf.partition_archives a JOIN sheaf.partition_archives b ON b.lower_bound > a.lower_bound
        WHERE a.partition_name = $1::text AND b.state NOT IN ('dropped', 'restored')) AS is_before_another
