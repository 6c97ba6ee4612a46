-- Purpose: rows of the value indexes as a group of writes leaves the documents, of attributes of one type; a value that is
--   null has none.
-- Parameters: the type; a row's columns as arrays: tenant_id, attribute_id, entity_id, value as text.
-- Index: entity_index_<type>_pkey, one probe a row. Locks: the rows, under their buckets' locks.
SELECT sheaf.put_index($1, $2, $3, $4, $5)
