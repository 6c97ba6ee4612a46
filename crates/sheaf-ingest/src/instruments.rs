//! The names of what the write path counts. Labels are bounded: no tenant, entity or attribute is one.

/// Events, by what they came to.
pub const EVENTS_TOTAL: &str = "sheaf_ingest_events_total";
/// Values in stored events.
pub const VALUES_TOTAL: &str = "sheaf_ingest_values_total";
/// Refusals, by code.
pub const REJECTIONS_TOTAL: &str = "sheaf_rejections_total";
/// Events of parts that wait for a lane.
pub const QUEUE_EVENTS: &str = "sheaf_ingest_queue_events";
/// Times whose digits below a microsecond were cut.
pub const TIMES_CUT_TOTAL: &str = "sheaf_ingest_times_cut_total";
/// Seconds of each step of a lane's transaction.
pub const STEP_SECONDS: &str = "sheaf_ingest_step_seconds";
/// Events of each group that a lane commits.
pub const GROUP_EVENTS: &str = "sheaf_ingest_group_events";
/// Documents that a merge needed, by whether the lane remembered them.
pub const DOCUMENTS_TOTAL: &str = "sheaf_ingest_documents_total";
/// Events that lanes stored for a time that was closed to writes.
pub const LATE_EVENTS_TOTAL: &str = "sheaf_ingest_late_events_total";
/// For how long the oldest staged batch of all servers has waited.
pub const STAGING_OLDEST_SECONDS: &str = "sheaf_staging_oldest_seconds";
/// Events that are staged, of all servers.
pub const STAGING_EVENTS: &str = "sheaf_staging_events";
/// How often everything that was staged was lost.
pub const STAGING_LOSSES_TOTAL: &str = "sheaf_staging_losses_total";
/// Requests that were refused because flushes were behind.
pub const STAGING_REFUSED_TOTAL: &str = "sheaf_staging_refused_total";
/// Requests that were stored durably because flushes were behind.
pub const STAGING_TURNED_DURABLE_TOTAL: &str = "sheaf_staging_turned_durable_total";
