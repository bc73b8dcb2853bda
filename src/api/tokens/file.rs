//! The file of hashes: read only if nobody else can, replaced as a whole, and changed by one at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Entry, Tokens, TokensError, hash};
use crate::api::token::Token;

const FILE_NAME: &str = "tokens.yaml";
/// Bytes. Entries have some 300 each, and there are 4096 at most.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// The first administrator.
const ADMIN_NAME: &str = "admin";
const ADMIN: &str = "user:admin";
const ADMINS: &str = "group:daypass-admins";

/// Where a data directory keeps its hashes.
#[must_use]
pub fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> TokensError {
    move |source| TokensError::File { path: path.display().to_string(), source }
}

/// # Errors
/// The file is missing, broken, or can be read by others.
pub fn read(path: &Path) -> Result<Tokens, TokensError> {
    let content = read_bytes(path)?;
    parse(path, &content)
}

pub(super) fn parse(path: &Path, content: &[u8]) -> Result<Tokens, TokensError> {
    let wrong = |message| TokensError::Content { path: path.display().to_string(), message };
    let text = str::from_utf8(content).map_err(|_| wrong("not UTF-8".to_owned()))?;
    Tokens::parse(text).map_err(wrong)
}

pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, TokensError> {
    let file = File::open(path).map_err(failed(path))?;
    // Of what was opened, not of what is under the name by now.
    let mode = file.metadata().map_err(failed(path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TokensError::Exposed { path: path.display().to_string(), mode });
    }
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(failed(path))?;
    if content.len() as u64 > MAX_FILE_BYTES {
        let message = format!("larger than {MAX_FILE_BYTES} bytes");
        return Err(TokensError::Content { path: path.display().to_string(), message });
    }
    Ok(content)
}

/// Changes the file, which may be missing, while nobody else does.
///
/// # Errors
/// The file cannot be read or written, or the change is refused.
pub fn edit(path: &Path, change: impl FnOnce(&mut Tokens) -> Result<(), String>) -> Result<(), TokensError> {
    let _lock = lock(path)?;
    let mut tokens = match read(path) {
        Err(TokensError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Tokens::default(),
        found => found?,
    };
    change(&mut tokens).map_err(TokensError::Refused)?;
    write(path, &tokens)
}

/// The hashes of a server that starts, or will. Without a file it gets one, with the token of the first administrator: that of
/// `data_dir`, which an earlier version may have made, or a new one.
///
/// # Errors
/// The file cannot be used, or not be made.
pub fn open(path: &Path, data_dir: &Path) -> Result<Tokens, TokensError> {
    match read(path) {
        Err(TokensError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        found => return found,
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed(data_dir))?;
    let _lock = lock(path)?;
    // Another process may have been first.
    if path.exists() {
        return read(path);
    }
    let token = Token::read_or_create(data_dir)?;
    let principal =
        |text: &str| text.parse().map_err(|error| TokensError::Refused(format!("{text}: {error}")));
    let mut tokens = Tokens::default();
    let admin = Entry {
        name: ADMIN_NAME.to_owned(),
        sha256: hash(token.reveal()),
        principal: principal(ADMIN)?,
        groups: vec![principal(ADMINS)?],
        expires_at: None,
    };
    tokens.add(admin).map_err(TokensError::Refused)?;
    write(path, &tokens)?;
    tracing::info!(
        token = %Token::path_in(data_dir).display(),
        "the first administrator's token; it can be moved or deleted, the server keeps its hash"
    );
    Ok(tokens)
}

/// Held until the file is dropped, or the process ends.
fn lock(path: &Path) -> Result<File, TokensError> {
    let name = path.with_extension("lock");
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).mode(0o600).open(&name).map_err(failed(&name))?;
    file.lock().map_err(failed(&name))?;
    Ok(file)
}

/// Under another name first: nobody ever reads half a file.
fn write(path: &Path, tokens: &Tokens) -> Result<(), TokensError> {
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = (|| {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(tokens.render().as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    written.map_err(failed(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_administrator_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_in(dir.path());
        let made = open(&path, dir.path()).unwrap();
        let token = Token::read(&Token::path_in(dir.path())).unwrap();
        assert_eq!(made.find(token.reveal()).unwrap().principal.as_str(), "user:admin");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(&path).unwrap().contains(token.reveal()));
        // Nobody needs the token itself again, and none is made where there is a file.
        fs::remove_file(Token::path_in(dir.path())).unwrap();
        assert_eq!(open(&path, dir.path()).unwrap(), made);
        edit(&path, |tokens| tokens.remove("admin")).unwrap();
        assert_eq!(open(&path, dir.path()).unwrap(), Tokens::default());
        assert!(!Token::path_in(dir.path()).exists());
    }

    #[test]
    fn a_token_of_an_earlier_version_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let old = Token::read_or_create(dir.path()).unwrap();
        let tokens = open(&path_in(dir.path()), dir.path()).unwrap();
        assert!(tokens.find(old.reveal()).is_some());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_in(dir.path());
        edit(&path, |_| Ok(())).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(TokensError::Exposed { mode: found, .. }) if found == mode));
            assert!(open(&path, dir.path()).is_err());
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(read(&path).is_ok());
    }

    #[test]
    fn edits_at_one_time_are_all_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_in(dir.path());
        std::thread::scope(|scope| {
            for number in 0..16 {
                let path = &path;
                scope.spawn(move || {
                    let entry = Entry {
                        name: format!("t{number}"),
                        sha256: hash(&number.to_string()),
                        principal: "user:a".parse().unwrap(),
                        groups: Vec::new(),
                        expires_at: None,
                    };
                    edit(path, |tokens| tokens.add(entry)).unwrap();
                });
            }
        });
        assert_eq!(read(&path).unwrap().entries().len(), 16);
    }
}
