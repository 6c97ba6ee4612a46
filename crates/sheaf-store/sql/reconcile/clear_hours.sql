-- Purpose: forgets what was counted of the events of some hours.
-- Parameters: the first hour, the first after them. Index: reconciled_hours_hour. Locks: the rows of these hours.
UPDATE sheaf.reconciled_hours SET events_facts = 0, events_sum = 0, events_hidden_facts = 0, events_hidden_sum = 0
WHERE hour >= $1::bigint AND hour < $2::bigint AND (events_facts <> 0 OR events_sum <> 0 OR events_hidden_facts <> 0 OR events_hidden_sum <> 0)
