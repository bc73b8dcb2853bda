//! A walk over DER, one value after another. Never recurses.

use x509_parser::asn1_rs::{Any, Class, FromDer, Oid, Tag};

/// What is left of a sequence.
#[derive(Clone, Copy)]
pub struct Fields<'d>(&'d [u8]);

impl<'d> Fields<'d> {
    /// Of one SEQUENCE, with nothing behind it.
    pub fn of(der: &'d [u8]) -> Option<Self> {
        let mut outer = Self(der);
        let inner = outer.sequence()?;
        outer.is_empty().then_some(inner)
    }

    #[must_use]
    pub fn inside(content: &'d [u8]) -> Self {
        Self(content)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn any(&mut self) -> Option<Any<'d>> {
        let (rest, value) = Any::from_der(self.0).ok()?;
        self.0 = rest;
        Some(value)
    }

    fn universal(&mut self, tag: Tag) -> Option<&'d [u8]> {
        let value = self.any()?;
        (value.class() == Class::Universal && value.tag() == tag).then(|| value.as_bytes())
    }

    pub fn sequence(&mut self) -> Option<Self> {
        self.universal(Tag::Sequence).map(Self)
    }

    pub fn set(&mut self) -> Option<Self> {
        self.universal(Tag::Set).map(Self)
    }

    /// A whole number that is not negative, big-endian without zeros in front.
    pub fn unsigned(&mut self) -> Option<&'d [u8]> {
        let bytes = self.universal(Tag::Integer)?;
        match bytes.first() {
            None | Some(0x80..) => None,
            _ => Some(without_leading_zeros(bytes)),
        }
    }

    pub fn octets(&mut self) -> Option<&'d [u8]> {
        self.universal(Tag::OctetString)
    }

    /// A bit string of whole bytes.
    pub fn bits(&mut self) -> Option<&'d [u8]> {
        match self.universal(Tag::BitString)?.split_first() {
            Some((0, bytes)) => Some(bytes),
            _ => None,
        }
    }

    pub fn oid(&mut self) -> Option<Oid<'d>> {
        self.universal(Tag::Oid).map(|bytes| Oid::new(bytes.into()))
    }

    /// `[number]`, if it is next: what is inside.
    pub fn tagged(&mut self, number: u32) -> Option<Self> {
        let mut ahead = *self;
        let value = ahead.any()?;
        if value.class() != Class::ContextSpecific || value.tag() != Tag(number) {
            return None;
        }
        *self = ahead;
        Some(Self(value.as_bytes()))
    }
}

#[must_use]
pub fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}
