//! A database file in the data directory: made with its mode, and named in whatever goes wrong with it.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use redb::Database;

use super::StoreError;

/// # Errors
/// The file cannot be opened: no permission, damaged, or in use by another daypass.
pub fn open(data_dir: &Path, name: &str, cache_bytes: usize) -> Result<Database, StoreError> {
    let path = data_dir.join(name);
    let failed =
        |error: &dyn std::fmt::Display| StoreError::unavailable(format!("{}: {error}", path.display()));
    // Made with its mode before anything is in it: who has access to what, and why, is nobody else's business.
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed(&error))?;
    Database::builder().set_cache_size(cache_bytes).create(&path).map_err(|error| failed(&error))
}
