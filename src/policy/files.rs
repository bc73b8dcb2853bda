//! Which files the paths of a command line stand for. Never follows links in circles.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::Problem;

/// What a policy is made of; other files in a directory are left alone.
const EXTENSIONS: [&str; 4] = ["rego", "json", "yaml", "yml"];
/// Files of all paths together. Somebody who named `/` should hear of it before memory does.
const MAX_FILES: usize = 10_000;

/// A file, and the directories that it lies in below the path that was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    pub below: Vec<String>,
}

/// All files at some paths, in the order of their names: positions in messages should not depend on that of a directory.
#[must_use]
pub fn list(paths: &[PathBuf]) -> (Vec<Found>, Vec<Problem>) {
    let mut listing = Listing::default();
    for path in paths {
        if path.is_dir() {
            listing.directory(path, &mut Vec::new());
        } else {
            listing.found.push(Found { path: path.clone(), below: Vec::new() });
        }
    }
    if listing.found.len() > MAX_FILES {
        let names = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let message = format!("more than {MAX_FILES} policy files here");
        listing.problems.push(Problem::in_file(&names, message));
    }
    (listing.found, listing.problems)
}

#[derive(Default)]
struct Listing {
    found: Vec<Found>,
    problems: Vec<Problem>,
    /// Directories that lead to where the listing is, by device and number.
    above: Vec<(u64, u64)>,
}

impl Listing {
    fn directory(&mut self, dir: &Path, below: &mut Vec<String>) {
        let read = || {
            let about = fs::metadata(dir)?;
            let entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
            Ok(((about.dev(), about.ino()), entries))
        };
        let (identity, mut entries) = match read() {
            Ok(found) => found,
            Err(error) => return self.problems.push(unreadable(dir, &error)),
        };
        if self.above.contains(&identity) {
            let message = "a link leads back to a directory above it";
            return self.problems.push(Problem::in_file(&dir.display().to_string(), message));
        }
        self.above.push(identity);
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if self.found.len() > MAX_FILES {
                break;
            }
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            // `..data` and its like: what Kubernetes keeps beside the files of a mounted ConfigMap.
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                below.push(name);
                self.directory(&path, below);
                below.pop();
            } else if has_extension(&path, &EXTENSIONS) {
                self.found.push(Found { path, below: below.clone() });
            }
        }
        self.above.pop();
    }
}

/// The files at some paths, as far as can be seen without reading them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<Seen>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    /// What cannot be seen is a difference to what can.
    about: Option<(u64, u64, i64, i64)>,
}

impl Fingerprint {
    #[must_use]
    pub fn of(paths: &[PathBuf]) -> Self {
        let (found, problems) = list(paths);
        let seen = |path: PathBuf| {
            let about = fs::metadata(&path).ok();
            let about = about.map(|about| (about.ino(), about.len(), about.mtime(), about.mtime_nsec()));
            Seen { path, about }
        };
        let unseen = problems.into_iter().map(|problem| Seen { path: problem.file.into(), about: None });
        Self(found.into_iter().map(|found| seen(found.path)).chain(unseen).collect())
    }
}

#[must_use]
pub fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().and_then(|found| found.to_str()).is_some_and(|found| extensions.contains(&found))
}

#[must_use]
pub fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::in_file(&path.display().to_string(), format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_that_lead_back_are_told_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("x")).unwrap();
        fs::write(dir.path().join("x/a.rego"), "").unwrap();
        symlink(".", dir.path().join("here")).unwrap();
        symlink("..", dir.path().join("x/up")).unwrap();
        symlink("x", dir.path().join("again")).unwrap();
        let (found, problems) = list(&[dir.path().to_owned()]);
        let names: Vec<_> = found.iter().map(|found| found.below.join("/")).collect();
        assert_eq!(names, ["again", "x"], "a link to another directory is one more way to it");
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn only_files_of_policies_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().to_owned()];
        fs::write(dir.path().join("a.rego"), "").unwrap();
        let before = Fingerprint::of(&paths);
        fs::write(dir.path().join("app.log"), "x").unwrap();
        fs::write(dir.path().join(".hidden.rego"), "x").unwrap();
        assert_eq!(Fingerprint::of(&paths), before);
        fs::write(dir.path().join("a.rego"), "x").unwrap();
        assert_ne!(Fingerprint::of(&paths), before);
    }
}
