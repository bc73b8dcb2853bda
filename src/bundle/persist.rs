//! The last good archive of each bundle, on disk for the day its server is away. Kept as it came, so that it is verified
//! again when it is read. Blocking: call it from where that is allowed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ring::digest;

/// Of a directory's name that is made of a bundle's. A file name has at most 255, and a digest may follow.
const MAX_NAME_BYTES: usize = 150;

/// OPA's layout: `<directory>/bundles/<name>/bundle.tar.gz`.
pub fn path(directory: &Path, name: &str) -> PathBuf {
    directory.join("bundles").join(directory_name(name)).join("bundle.tar.gz")
}

/// Bundle names may have any characters, so what is more than a word is escaped as in a URL.
fn directory_name(name: &str) -> String {
    let mut escaped = String::new();
    for (index, byte) in name.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || (byte == b'.' && index > 0);
        if is_plain {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            escaped.push_str(&HEXLOWER.encode(&[byte]));
        }
    }
    if escaped.len() > MAX_NAME_BYTES {
        escaped.truncate(MAX_NAME_BYTES);
        escaped.push('%');
        escaped.push_str(&HEXLOWER.encode(digest::digest(&digest::SHA256, name.as_bytes()).as_ref()));
    }
    escaped
}

/// # Errors
/// The directory or file cannot be written. The archive that was there stays.
pub fn save(path: &Path, archive: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let temporary = path.with_extension("tmp");
    // One that a crash left would keep its mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(archive)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// None: there is none.
///
/// # Errors
/// It cannot be read, or is larger than `limit`.
pub fn load(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if size > limit {
        return Err(io::Error::other(format!("it has {size} bytes, and the limit is {limit}")));
    }
    fs::read(path).map(Some)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn saved_for_its_owner_alone_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(&dir.path().join("new"), "team/authz");
        assert_eq!(load(&path, 10).unwrap(), None);
        save(&path, b"first").unwrap();
        fs::write(path.with_extension("tmp"), "left by a crash").unwrap();
        save(&path, b"second").unwrap();
        assert_eq!(load(&path, 10).unwrap().as_deref(), Some(&b"second"[..]));
        assert!(load(&path, 5).is_err());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(mode(&dir.path().join("new/bundles")), 0o700);
    }

    #[test]
    fn names_stay_below_the_directory_and_apart() {
        assert_eq!(directory_name("authz"), "authz");
        assert_eq!(directory_name("a/b.tar.gz"), "a%2fb.tar.gz");
        assert_eq!(directory_name("../x"), "%2e.%2fx");
        assert_eq!(directory_name("é"), "%c3%a9");
        assert_ne!(directory_name("a%2fb"), directory_name("a/b"));
        let long = |last: char| directory_name(&format!("{}{last}", "/".repeat(500)));
        assert!(long('a').len() < 255 && long('a') != long('b'));
    }
}
