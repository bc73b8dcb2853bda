//! docs/hardening.md, point by point, on a real Envoy: what it does by default, and what it does as `envoy/hardened.yaml`.
//!
//! Each test names what a bare Envoy does too, so that the document can say it and notices when it is no longer so.

mod answers;
mod document;
mod guard;
mod headers;
mod http2;
mod limits;
mod paths;
mod policy;
pub mod rig;
mod smuggling;
mod tokens;
