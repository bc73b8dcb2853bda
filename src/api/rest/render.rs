//! Answers of the services as JSON.
//!
//! Must never be asked to render what a caller sent.

use std::io::{self, Write};

use prost::bytes::Bytes;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum Unrenderable {
    #[error("it cannot be read")]
    Message(#[from] prost::DecodeError),
    #[error("it has no form in JSON")]
    Json(#[from] serde_json::Error),
}

/// A message, and its JSON in the canonical form: lowerCamelCase, without defaults.
pub fn rendered(
    descriptor: &MessageDescriptor,
    bytes: Bytes,
) -> Result<(DynamicMessage, Vec<u8>), Unrenderable> {
    let message = DynamicMessage::decode(descriptor.clone(), bytes)?;
    let mut json = Vec::new();
    message.serialize(&mut Serializer::with_formatter(&mut json, Numbers))?;
    Ok((message, json))
}

/// As other writers of this form have numbers: `1`, not `1.0`.
struct Numbers;

/// Beyond it a float is no whole number that anybody meant.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

impl Formatter for Numbers {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        if value.fract() == 0.0 && value.abs() <= MAX_EXACT {
            write!(writer, "{value:.0}")
        } else {
            CompactFormatter.write_f64(writer, value)
        }
    }
}
