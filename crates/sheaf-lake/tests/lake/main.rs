//! The lake against PostgreSQL and readers that are not ours.

mod bucket;
mod cadence;
mod commits;
mod conformance;
mod corrections;
mod crashes;
mod joining;
mod letters;
mod locations;
mod readers;
mod streamed;
mod world;
