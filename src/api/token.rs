//! A client's token: one secret, in a file that only its owner can read. The server makes the first administrator's, and
//! keeps no more of it than its hash (see `tokens`).

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::private::{self, Fault};

const FILE_NAME: &str = "token";
/// Bytes. Many times a token that anybody takes.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// 244 bits from the system's generator.
const GENERATED_PARTS: usize = 2;

#[derive(Debug, Error)]
pub enum TokenError {
    #[error("the token file {} cannot be used", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("the token file {} is empty", .0.display())]
    Empty(PathBuf),
    #[error("the token file {} can be read by others (mode {mode:03o}); chmod 600 it", .path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the token file {} belongs to another user ({uid})", .path.display())]
    Foreign { path: PathBuf, uid: u32 },
}

/// Never printed.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

impl Token {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Where a data directory keeps its token.
    #[must_use]
    pub fn path_in(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE_NAME)
    }

    /// # Errors
    /// The file is missing or empty, or another user's, or readable by others.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let file = |source| TokenError::File { path: path.to_owned(), source };
        let opened = private::open(path).map_err(|fault| match fault {
            Fault::File(source) => file(source),
            Fault::Exposed(mode) => TokenError::Exposed { path: path.to_owned(), mode },
            Fault::Foreign(uid) => TokenError::Foreign { path: path.to_owned(), uid },
        })?;
        let mut text = String::new();
        opened.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(file)?;
        let token = Self::new(&text);
        if token.0.is_empty() { Err(TokenError::Empty(path.to_owned())) } else { Ok(token) }
    }

    /// The token of a data directory, made on first start.
    ///
    /// # Errors
    /// The directory cannot be written, or its token not be read.
    pub fn read_or_create(data_dir: &Path) -> Result<Self, TokenError> {
        let path = Self::path_in(data_dir);
        if path.exists() {
            return Self::read(&path);
        }
        // Written under another name and then linked: nobody ever finds half a token, and of two processes that start
        // together both end up with the same one.
        match Self::create(&path) {
            Ok(token) => Ok(token),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::read(&path),
            Err(source) => Err(TokenError::File { path, source }),
        }
    }

    fn create(path: &Path) -> std::io::Result<Self> {
        let token: String = (0..GENERATED_PARTS).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
        let (mut file, draft) = private::draft(path)?;
        let written = writeln!(file, "{token}").and_then(|()| file.sync_all());
        let linked = written.and_then(|()| fs::hard_link(&draft, path));
        fs::remove_file(&draft).and(linked).map(|()| Self(token))
    }

    #[must_use]
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn is_made_once_and_only_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let made = Token::read_or_create(dir.path()).unwrap();
        let path = Token::path_in(dir.path());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Token::read_or_create(dir.path()).unwrap().0, made.0);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Token::read(&path), Err(TokenError::Exposed { mode: 0o640, .. })));
        assert!(!format!("{made:?}").contains(&made.0));
    }
}
