//! The file of hashes: read only if nobody else can, replaced as a whole, and changed by one at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Entry, Tokens, TokensError, hash};
use crate::api::private::{self, Fault};
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
/// The file is missing or broken, or another user's, or can be read by others.
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
    let file = private::open(path).map_err(|fault| match fault {
        Fault::File(source) => failed(path)(source),
        Fault::Exposed(mode) => TokensError::Exposed { path: path.display().to_string(), mode },
        Fault::Foreign(uid) => TokensError::Foreign { path: path.display().to_string(), uid },
    })?;
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
        Err(error) if error.is_missing() => Tokens::default(),
        found => found?,
    };
    change(&mut tokens).map_err(TokensError::Refused)?;
    write(path, &tokens)
}

/// Ends a token. The first administrator's is deleted too, if it is that one: it must not come back.
///
/// # Errors
/// There is none of that name, or a file cannot be changed.
pub fn remove(path: &Path, data_dir: &Path, name: &str) -> Result<(), TokensError> {
    let mut removed = None;
    edit(path, |tokens| {
        removed = tokens.entries().iter().find(|entry| entry.name == name).map(|entry| entry.sha256);
        tokens.remove(name)
    })?;
    let first = Token::path_in(data_dir);
    let is_first = Token::read(&first).is_ok_and(|token| removed == Some(hash(token.reveal())));
    if is_first { fs::remove_file(&first).map_err(failed(&first)) } else { Ok(()) }
}

/// The hashes of a server that starts, or will. A data directory with neither them nor a token gets both: the first
/// administrator's. A token alone may be one that was taken back, or an earlier version's: it makes nobody anything.
///
/// # Errors
/// The file cannot be used, or not be made; or it is missing where it must be there.
pub fn open(path: &Path, data_dir: &Path) -> Result<Tokens, TokensError> {
    match read(path) {
        // One that somebody chose is somebody's to make.
        Err(error) if error.is_missing() && path == path_in(data_dir) => {}
        found => return found,
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed(data_dir))?;
    let _lock = lock(path)?;
    // Another process may have been first.
    if path.exists() {
        return read(path);
    }
    let first = Token::path_in(data_dir);
    if fs::symlink_metadata(&first).is_ok() {
        let (path, token) = (path.display().to_string(), first.display().to_string());
        return Err(TokensError::Forgotten { path, token });
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
    let (mut file, draft) = private::draft(path).map_err(failed(path))?;
    let written = file.write_all(tokens.render().as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&draft, path)).map_err(|error| {
        // What is left of it is of no use, and no harm if it stays.
        let _ = fs::remove_file(&draft);
        failed(path)(error)
    })
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
    fn a_token_that_was_taken_back_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (path, first) = (path_in(dir.path()), Token::path_in(dir.path()));
        open(&path, dir.path()).unwrap();
        let token = Token::read(&first).unwrap();
        // Another's end leaves it, its own does not.
        let other =
            Entry { name: "b".to_owned(), sha256: hash("b"), ..read(&path).unwrap().entries()[0].clone() };
        edit(&path, |tokens| tokens.add(other)).unwrap();
        remove(&path, dir.path(), "b").unwrap();
        assert!(first.exists() && remove(&path, dir.path(), "b").is_err());
        remove(&path, dir.path(), "admin").unwrap();
        assert!(!first.exists());
        // The same by hand, in a copy that kept it.
        fs::remove_file(&path).unwrap();
        fs::write(&first, token.reveal()).unwrap();
        let error = open(&path, dir.path()).unwrap_err();
        assert!(matches!(error, TokensError::Forgotten { .. }) && !path.exists(), "{error}");
        fs::remove_file(&first).unwrap();
        let anew = open(&path, dir.path()).unwrap();
        assert!(anew.find(token.reveal()).is_none() && anew.entries().len() == 1);
    }

    #[test]
    fn a_file_that_somebody_chose_is_not_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.yaml");
        assert!(open(&path, dir.path()).unwrap_err().is_missing());
        assert!(!path.exists() && !Token::path_in(dir.path()).exists());
        edit(&path, |_| Ok(())).unwrap();
        assert_eq!(open(&path, dir.path()).unwrap(), Tokens::default());
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
