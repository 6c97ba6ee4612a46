//! What a server does with the change stream.

#[path = "changes/cache.rs"]
mod cache;
#[path = "changes/doctor.rs"]
mod doctor;
#[path = "changes/posted.rs"]
mod posted;
#[path = "changes/support.rs"]
mod support;
