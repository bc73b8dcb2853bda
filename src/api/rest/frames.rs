//! gRPC's framing: a flag, four bytes of length, the message.
//!
//! Must never trust a length before the bytes are there.

use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes, BytesMut};
use prost_reflect::DynamicMessage;
use thiserror::Error;

const PREFIX_BYTES: usize = 5;
const NOT_COMPRESSED: u8 = 0;

/// Of our own services, which were told of no compression.
#[derive(Debug, Error)]
#[error("a frame that is not understood")]
pub struct Malformed;

/// One message as a body.
pub fn framed(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(NOT_COMPRESSED);
    // A body of 1 MiB does not become 4 GiB.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

/// Messages out of a body that comes in pieces.
#[derive(Debug, Default)]
pub struct Frames(BytesMut);

impl Frames {
    pub fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
    }

    /// The next whole message, if it is there.
    pub fn next(&mut self) -> Result<Option<Bytes>, Malformed> {
        let Some(prefix) = self.0.get(..PREFIX_BYTES) else { return Ok(None) };
        let mut prefix = prefix;
        if prefix.get_u8() != NOT_COMPRESSED {
            return Err(Malformed);
        }
        let length = usize::try_from(prefix.get_u32()).map_err(|_| Malformed)?;
        if self.0.len() - PREFIX_BYTES < length {
            return Ok(None);
        }
        self.0.advance(PREFIX_BYTES);
        Ok(Some(self.0.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        let bytes = [&[0, 0, 0, 0, 2][..], b"ab", &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1], b"c"].concat();
        for size in 1..=bytes.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(size) {
                frames.push(piece);
                while let Some(message) = frames.next().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, [&b"ab"[..], b"", b"c"], "{size}");
            assert!(frames.0.is_empty());
        }
        let mut frames = Frames::default();
        frames.push(&[1, 0, 0, 0, 0]);
        assert!(frames.next().is_err());
    }
}
