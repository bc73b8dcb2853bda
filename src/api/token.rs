//! A client's token: one secret, in a file that only its owner can read. The server makes the first administrator's, and
//! keeps no more of it than its hash (see `tokens`).

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

const FILE_NAME: &str = "token";
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
    /// The file is missing, empty, or readable by others.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let file = |source| TokenError::File { path: path.to_owned(), source };
        // The mode is that of what is read, and not of what was at the path a moment before.
        let opened = fs::File::open(path).map_err(file)?;
        let mode = opened.metadata().map_err(file)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Exposed { path: path.to_owned(), mode });
        }
        let token = Self::new(&std::io::read_to_string(opened).map_err(file)?);
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
        let draft = data_dir.join(format!("{FILE_NAME}.{}", std::process::id()));
        let made = Self::write_new(&draft).and_then(|token| {
            let linked = fs::hard_link(&draft, &path);
            fs::remove_file(&draft).and(linked).map(|()| token)
        });
        match made {
            Ok(token) => Ok(token),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::read(&path),
            Err(source) => Err(TokenError::File { path, source }),
        }
    }

    fn write_new(path: &Path) -> std::io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let token: String = (0..GENERATED_PARTS).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
        writeln!(file, "{token}")?;
        file.sync_all()?;
        Ok(Self(token))
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
