//! The names a caller goes by: `user:alice@corp`, `group:oncall`, `workload:spiffe://td/ns/dev/sa/web`.
//!
//! A principal is the key under which grants are found, so two spellings of one name must never compare equal by
//! accident: the text is taken as it came, and text that could be read in two ways is refused.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use thiserror::Error;

/// Longest principal in bytes, prefix included. SPIFFE IDs end at 2048 bytes (SPIFFE-ID, section 2.3).
pub const MAX_PRINCIPAL_BYTES: usize = 2048 + 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    User,
    Group,
    Workload,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::User, Self::Group, Self::Workload];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Workload => "workload",
        }
    }
}

impl FromStr for Kind {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(PrincipalError::UnknownKind)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PrincipalError {
    #[error("a principal begins with `user:`, `group:` or `workload:`")]
    UnknownKind,
    #[error("a principal has a name after its kind")]
    Empty,
    #[error("a principal is at most {MAX_PRINCIPAL_BYTES} bytes long")]
    TooLong,
    #[error("a principal has no control or invisible characters and no space around its name")]
    Unprintable,
}

/// One name of a caller, always of the form `kind:name`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(Arc<str>);

impl Principal {
    /// # Errors
    /// The name is empty, too long, or has characters that nobody could see.
    pub fn new(kind: Kind, name: &str) -> Result<Self, PrincipalError> {
        check_name(name)?;
        Self::within_limit(&format!("{}:{name}", kind.as_str()))
    }

    fn within_limit(text: &str) -> Result<Self, PrincipalError> {
        if text.len() > MAX_PRINCIPAL_BYTES { Err(PrincipalError::TooLong) } else { Ok(Self(text.into())) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_group(&self) -> bool {
        self.0.starts_with("group:")
    }
}

impl FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = text.split_once(':').ok_or(PrincipalError::UnknownKind)?;
        kind.parse::<Kind>()?;
        check_name(name)?;
        Self::within_limit(text)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Principal {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn check_name(name: &str) -> Result<(), PrincipalError> {
    if name.is_empty() {
        return Err(PrincipalError::Empty);
    }
    if name.chars().any(is_invisible) || name.trim() != name {
        return Err(PrincipalError::Unprintable);
    }
    Ok(())
}

/// Characters that a terminal would obey, that turn or break text, or that show nothing: two texts that differ in them look
/// the same, and one of them alone says nothing. White space and what joins to a visible character are not among them.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            // Soft hyphen, grapheme joiner, fillers and blanks of several scripts.
            '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}' | '\u{2800}'
                | '\u{3164}' | '\u{ffa0}'
                // Direction of writing, zero width, separators of lines and paragraphs, byte order mark.
                | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                // Tags.
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Who calls: every principal that was established, in the order of the sources that named them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    principals: Vec<Principal>,
}

impl Caller {
    #[must_use]
    pub fn new(principals: Vec<Principal>) -> Self {
        Self { principals }
    }

    #[must_use]
    pub fn principals(&self) -> &[Principal] {
        &self.principals
    }

    /// The one name to show a person: the first that is not a group.
    #[must_use]
    pub fn subject(&self) -> Option<&Principal> {
        self.principals.iter().find(|principal| !principal.is_group())
    }
}

/// By what a caller of the API is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    Jwt,
    Certificate,
    Token,
}

impl Evidence {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Certificate => "certificate",
            Self::Token => "token",
        }
    }
}

/// Who calls the API. There is always a subject: a group alone is nobody who could be held to anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub subject: Principal,
    /// All names of the caller, the subject among them.
    pub caller: Caller,
    /// Who acts for the subject, if anybody does (the `act` claim of RFC 8693).
    pub delegate: Option<Principal>,
    pub evidence: Evidence,
    /// When what established it runs out.
    pub expires_at: Option<Timestamp>,
}

impl Identity {
    /// None if no principal of the caller is a person or a workload.
    #[must_use]
    pub fn new(caller: Caller, evidence: Evidence) -> Option<Self> {
        let subject = caller.subject()?.clone();
        Some(Self { subject, caller, delegate: None, evidence, expires_at: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_kinds_and_nothing_else() {
        for text in ["user:alice@corp", "group:oncall", "workload:spiffe://td/ns/dev/sa/web"] {
            assert_eq!(text.parse::<Principal>().map(|p| p.to_string()), Ok(text.to_owned()));
        }
        for (text, error) in [
            ("", PrincipalError::UnknownKind),
            ("alice", PrincipalError::UnknownKind),
            ("admin:alice", PrincipalError::UnknownKind),
            ("user:", PrincipalError::Empty),
            ("user: alice", PrincipalError::Unprintable),
            ("user:a\0b", PrincipalError::Unprintable),
            ("user:root\u{200b}", PrincipalError::Unprintable),
            ("user:\u{202e}toor", PrincipalError::Unprintable),
            ("group:a\u{2028}b", PrincipalError::Unprintable),
            ("user:a\u{e0041}", PrincipalError::Unprintable),
            ("user:\u{feff}a", PrincipalError::Unprintable),
            ("user:\u{3164}", PrincipalError::Unprintable),
        ] {
            assert_eq!(text.parse::<Principal>(), Err(error), "{text:?}");
        }
        assert_eq!(
            Principal::new(Kind::User, &"x".repeat(MAX_PRINCIPAL_BYTES)),
            Err(PrincipalError::TooLong)
        );
    }

    #[test]
    fn what_can_be_seen_is_no_secret() {
        for text in ["Zoë", "東京", "👍🏽", "❤\u{fe0f}", "a b\u{a0}c", "e\u{301}", "עברית", "한국"]
        {
            assert!(!text.chars().any(is_invisible), "{text}");
            assert!(Principal::new(Kind::User, text).is_ok(), "{text}");
        }
        for c in
            "\0\n\u{7f}\u{85}\u{ad}\u{200b}\u{200d}\u{202a}\u{2029}\u{2060}\u{2066}\u{2800}\u{fff9}".chars()
        {
            assert!(is_invisible(c), "{c:?}");
        }
    }

    #[test]
    fn the_subject_is_never_a_group() {
        let of = |names: &[&str]| Caller::new(names.iter().map(|n| n.parse().unwrap()).collect());
        assert_eq!(of(&["group:a", "user:b"]).subject().map(Principal::as_str), Some("user:b"));
        assert_eq!(of(&["group:a"]).subject(), None);
    }
}
