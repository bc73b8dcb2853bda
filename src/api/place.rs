//! Where the server of a data directory is. It writes its API's address into the directory and holds a lock on the file for
//! as long as it lives, so that the administrator's token beside it is shown to that server alone: not to whoever listens
//! on its port once it is gone, and not to another port.
//!
//! The lock is the kernel's: a server that is killed holds none.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::Token;

const FILE_NAME: &str = "api";
/// Of a URL with an address.
const MAX_BYTES: u64 = 256;
/// Whoever looks holds the lock for a moment; a server that starts tries again.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// Held by the server.
#[derive(Debug)]
pub struct Place {
    /// Its lock ends with it.
    _file: File,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    Nobody,
    /// A URL.
    At(String),
}

impl Place {
    /// None if another server has this directory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn take(data_dir: &Path, address: SocketAddr, is_tls: bool) -> std::io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(data_dir.join(FILE_NAME))?;
        for left in (0..TRIES).rev() {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if left == 0 => return Ok(None),
                Err(TryLockError::WouldBlock) => std::thread::sleep(BETWEEN_TRIES),
            }
        }
        let scheme = if is_tls { "https" } else { "http" };
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{scheme}://{address}")?;
        Ok(Some(Self { _file: file }))
    }
}

impl Whereabouts {
    /// # Errors
    /// The file cannot be read, or is of somebody else than the token beside it.
    pub fn of(data_dir: &Path) -> std::io::Result<Self> {
        let file = match File::open(data_dir.join(FILE_NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Nobody),
            Err(error) => return Err(error),
        };
        let owner = std::fs::metadata(Token::path_in(data_dir))?.uid();
        if file.metadata()?.uid() != owner {
            let text = "the file `api` and the token belong to different users";
            return Err(std::io::Error::new(ErrorKind::PermissionDenied, text));
        }
        match file.try_lock_shared() {
            Ok(()) => return Ok(Self::Nobody),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {}
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text)?;
        // A server that has the lock and has not written yet is not there yet.
        Ok(text.strip_suffix('\n').map_or(Self::Nobody, |url| Self::At(url.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_where_it_says_for_as_long_as_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::write(Token::path_in(dir), "x").unwrap();
        let (first, second) = ("127.0.0.1:12345".parse().unwrap(), "[::1]:7".parse().unwrap());
        assert_eq!(Whereabouts::of(dir).unwrap(), Whereabouts::Nobody);
        let place = Place::take(dir, first, false).unwrap().unwrap();
        let at = |url: &str| Whereabouts::At(url.to_owned());
        assert_eq!(Whereabouts::of(dir).unwrap(), at("http://127.0.0.1:12345"));
        assert!(Place::take(dir, second, false).unwrap().is_none(), "one at a time");
        assert_eq!(Whereabouts::of(dir).unwrap(), at("http://127.0.0.1:12345"));
        drop(place);
        assert_eq!(Whereabouts::of(dir).unwrap(), Whereabouts::Nobody, "the address is still in the file");
        let _place = Place::take(dir, second, true).unwrap().unwrap();
        assert_eq!(Whereabouts::of(dir).unwrap(), at("https://[::1]:7"));
        let mode = std::fs::metadata(dir.join(FILE_NAME)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
