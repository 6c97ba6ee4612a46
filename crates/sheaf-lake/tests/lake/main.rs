//! The lake against PostgreSQL and readers that are not ours.

mod archiving;
mod bucket;
mod cadence;
mod commits;
mod conformance;
mod corrections;
mod crashes;
mod histories;
mod joining;
mod letters;
mod locations;
mod readers;
mod reconciling;
mod streamed;
mod world;
