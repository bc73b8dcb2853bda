#![forbid(unsafe_code)]
//! x
pub mod clock;
pub mod principal;
pub mod permission;
pub mod grant;
pub mod decision;
pub mod replica;
pub mod policy;
pub mod store;
pub mod audit;
pub mod metrics;
pub mod authz;
pub mod api;
