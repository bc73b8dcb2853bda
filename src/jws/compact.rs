//! The compact form of a JWS: three parts between two dots. Takes it apart and decides nothing.

use super::base64::{self, BadBase64};

#[derive(Debug, Clone, Copy)]
pub struct Compact<'t> {
    pub header: &'t str,
    pub payload: &'t str,
    pub signature: &'t str,
    /// What the signature is over: header and payload with the dot between.
    pub signed: &'t [u8],
}

impl<'t> Compact<'t> {
    /// # Errors
    /// There are not three parts; the message is OPA's.
    pub fn parse(text: &'t str) -> Result<Self, String> {
        let mut parts = text.splitn(4, '.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(header), Some(payload), Some(signature), None) => {
                let length = header.len() + 1 + payload.len();
                let signed = text.as_bytes().get(..length).unwrap_or_default();
                Ok(Self { header, payload, signature, signed })
            }
            (_, None, _, _) => Err("encoded JWT had no period separators".to_owned()),
            _ => {
                let found = text.split('.').count();
                Err(format!("encoded JWT must have 3 sections, found {found}"))
            }
        }
    }

    /// # Errors
    /// It is not base64url.
    pub fn signature(&self) -> Result<Vec<u8>, BadBase64> {
        base64::url(self.signature)
    }
}
