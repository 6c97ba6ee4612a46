//! Claims about the language: its two forms, its limits, its types.

mod differential;
mod generate;
mod limits;
mod reading;
mod sql;
mod typing;
