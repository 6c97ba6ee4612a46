//! The lake against PostgreSQL and readers that are not ours.

mod bucket;
mod commits;
mod conformance;
mod crashes;
mod readers;
mod streamed;
mod world;
