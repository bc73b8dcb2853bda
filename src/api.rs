//! The grant API: the face through which people and programs give and end access.

mod gate;
mod grpc;
mod identity;
mod place;
mod private;
pub mod rest;
pub mod slots;
mod token;
pub mod tokens;

/// Generated from `proto/daypass/v1`.
#[expect(clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("daypass.v1");

    /// Everything of this package, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/daypass_descriptors.bin"));
}

pub use gate::{
    Gate, GateConfig, IssuerConfig, KeySource, Peer, Presented, RateLimit, Refusal, check_origin,
    default_algorithms, network,
};
pub use grpc::{Api, Explain, MAX_MESSAGE_BYTES, MAX_STREAM_AGE};
pub use identity::identity;
pub use place::{Place, Whereabouts};
pub use token::{Token, TokenError};
