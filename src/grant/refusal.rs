//! Why a stored value is not a grant. Such a value gives nobody access, and stops no other grant from working.

/// Why a stored value is not a grant. The codes are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NoTtl,
    TtlTooLong,
    WrongType,
    TooLarge,
    NotJson,
    BadVersion,
    UnknownField,
    BadId,
    BadSubject,
    BadPermission,
    BadField,
    /// It was revoked or changed, and a server that lost that has brought it back.
    Resurrected,
}

impl Refusal {
    pub const ALL: [Self; 12] = [
        Self::NoTtl,
        Self::TtlTooLong,
        Self::WrongType,
        Self::TooLarge,
        Self::NotJson,
        Self::BadVersion,
        Self::UnknownField,
        Self::BadId,
        Self::BadSubject,
        Self::BadPermission,
        Self::BadField,
        Self::Resurrected,
    ];

    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoTtl => "no_ttl",
            Self::TtlTooLong => "ttl_too_long",
            Self::WrongType => "wrong_type",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::BadVersion => "bad_version",
            Self::UnknownField => "unknown_field",
            Self::BadId => "bad_id",
            Self::BadSubject => "bad_subject",
            Self::BadPermission => "bad_permission",
            Self::BadField => "bad_field",
            Self::Resurrected => "resurrected",
        }
    }
}
