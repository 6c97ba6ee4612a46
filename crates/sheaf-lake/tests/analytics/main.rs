//! Questions over the lake: what they find, what they read for it, and what they cannot.

mod attempts;
mod escapes;
mod events;
mod expiry;
mod questions;
mod standing;
mod views;
mod work;
mod world;
