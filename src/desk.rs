//! Requests, grants, locks and what may be done with them.

pub mod admission;
