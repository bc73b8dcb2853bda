//! Files that hold secrets: of the user whom this process runs as, and nobody else's to read. What was opened is
//! looked at, not what is under the name by then.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a file is not a secret.
#[derive(Debug)]
pub enum Fault {
    File(io::Error),
    /// With its mode.
    Exposed(u32),
    /// With its owner.
    Foreign(u32),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// # Errors
/// It cannot be opened, or belongs to others, or can be read by them.
pub fn open(path: &Path) -> Result<File, Fault> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    // Whoever owns it can change it, whatever its mode.
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(Fault::Foreign(found.uid()));
    }
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 { Err(Fault::Exposed(mode)) } else { Ok(file) }
}

/// A new file beside the one that it will become, under a name that nobody can have put there before.
///
/// # Errors
/// It cannot be made.
pub fn draft(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4().simple()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&name)?;
    Ok((file, name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn a_secret_is_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let (_, name) = draft(&path).unwrap();
        std::fs::rename(name, &path).unwrap();
        assert!(open(&path).is_ok());
        for mode in [0o640, 0o604, 0o601] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert!(matches!(open(&path), Err(Fault::Exposed(found)) if found == mode));
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).unwrap();
        assert!(open(&path).is_ok());
        assert!(matches!(open(&dir.path().join("none")), Err(Fault::File(_))));
        // Only root can give files away.
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(4711), None).unwrap();
            assert!(matches!(open(&path), Err(Fault::Foreign(4711))));
        }
    }

    #[test]
    fn drafts_are_new_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let (_, one) = draft(&path).unwrap();
        let (_, other) = draft(&path).unwrap();
        assert_ne!(one, other);
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "kept").unwrap();
        symlink(&victim, dir.path().join(format!("secret.{}.tmp", std::process::id()))).unwrap();
        draft(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "kept");
    }
}
