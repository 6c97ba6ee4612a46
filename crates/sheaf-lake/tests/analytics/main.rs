//! Questions over the lake: what they find, what they read for it, and what they cannot.

mod escapes;
mod questions;
mod standing;
mod work;
mod world;
