//! Just-in-time access for Envoy: every request is decided against the grants alive at that moment.
//!
//! The map, in reading order. Each layer knows only those above it in this list, and faces do not know each other;
//! a test reads the `use` lines and holds them to it.
//!
//! * domain: [`clock`], [`principal`], [`permission`], [`grant`], [`lock`], [`decision`], [`standing`],
//!   [`entitlement`]
//! * tools: `jws` (signed tokens and their keys), `fetch` (one answer of an HTTP server), [`doctor`] (what is wrong
//!   with an Envoy configuration)
//! * engines: [`replica`] (live grants in memory), [`metrics`], [`store`] (durable grants), [`policy`] (Rego),
//!   [`bundle`] (policy from a server), [`audit`] (the decision log), [`trace`] (spans)
//! * the desk: [`desk`] (who may ask, agree, extend and end, by the admission policy)
//! * [`webhook`] (tells receivers what was recorded)
//! * faces: [`authz`] (Envoy asks), [`api`] (people and programs ask), [`ops`] (orchestrators ask)
//! * assembly: [`config`], [`telemetry`], [`server`], [`cli`]
#![forbid(unsafe_code)]

pub mod clock;
pub mod decision;
pub mod entitlement;
pub mod grant;
pub mod lock;
pub mod permission;
pub mod principal;
pub mod standing;

pub mod doctor;
mod fetch;
mod jws;

pub mod audit;
pub mod bundle;
pub mod metrics;
pub mod policy;
pub mod replica;
pub mod store;
pub mod trace;

pub mod desk;
pub mod webhook;

pub mod api;
pub mod authz;
pub mod ops;

pub mod cli;
pub mod config;
pub mod server;
pub mod telemetry;
