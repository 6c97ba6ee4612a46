//! What is counted of the lake and of the questions over it.

/// Questions that ended, by `result`: answered, refused, limited, computation, left (nobody took the answer any more), failed.
pub const SQL_QUESTIONS_TOTAL: &str = "sheaf_sql_questions_total";
/// How long questions took until their answer was taken or refused.
pub const SQL_SECONDS: &str = "sheaf_sql_seconds";
/// Questions that are being answered.
pub const SQL_RUNNING: &str = "sheaf_sql_running";
/// Questions that wait until the lake covers their token.
pub const SQL_WAITING: &str = "sheaf_sql_waiting";
/// Bytes that were read of data files for questions.
pub const SQL_SCANNED_BYTES_TOTAL: &str = "sheaf_sql_scanned_bytes_total";
/// Memory that questions have taken now.
pub const SQL_MEMORY_BYTES: &str = "sheaf_sql_memory_bytes";
/// Corrections that wait for the files of what they hide to be written anew.
pub const CORRECTIONS_WAITING: &str = "sheaf_lake_corrections_waiting";

/// Facts that were older than they are kept, and were taken out of the lake's files.
pub const RETENTION_FACTS_TOTAL: &str = "sheaf_lake_retention_facts_total";

/// How a question may end, as the label `result` says it.
pub const SQL_RESULTS: [&str; 6] = [
    "answered",
    "refused",
    "limited",
    "computation",
    "left",
    "failed",
];
