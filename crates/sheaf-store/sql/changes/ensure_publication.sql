-- Purpose: the publication that the change stream follows, made or mended where it is not what it has to be, and which; then
--   slots are forgotten, because what they showed before may lack rows.
-- Parameters: none. Locks: an advisory lock among those who ask; SHARE UPDATE EXCLUSIVE on the tables where it is made.
SELECT sheaf.ensure_change_publication() AS outcome
