//! A directory in the place of an archive, for a `file://` resource: packed, and then read like any other. Blocking.

use std::fs;
use std::io;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

/// Directories below each other; a link that leads back up would have no end.
const MAX_DEPTH: usize = 32;

/// # Errors
/// Something in it cannot be read, or there is more than `limit` bytes of it.
pub fn pack(directory: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut packer =
        Packer { archive: Builder::new(GzEncoder::new(Vec::new(), Compression::fast())), left: limit };
    packer.add(directory, &mut Vec::new())?;
    packer.archive.into_inner()?.finish()
}

struct Packer {
    archive: Builder<GzEncoder<Vec<u8>>>,
    left: u64,
}

impl Packer {
    fn add(&mut self, directory: &Path, below: &mut Vec<String>) -> io::Result<()> {
        let about =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", directory.display()));
        if below.len() > MAX_DEPTH {
            return Err(about(io::Error::other("more directories below each other than a bundle has")));
        }
        let entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = entries.map_err(about)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            // What Kubernetes keeps beside the files of a mounted ConfigMap, and editors beside theirs.
            if name.starts_with('.') && !matches!(name.as_str(), ".manifest" | ".signatures.json") {
                continue;
            }
            let metadata = fs::metadata(&path).map_err(about)?;
            below.push(name);
            if metadata.is_dir() {
                self.add(&path, below)?;
            } else if metadata.is_file() {
                self.left = self
                    .left
                    .checked_sub(metadata.len())
                    .ok_or_else(|| about(io::Error::other("its files exceed size_limit_bytes")))?;
                let bytes = fs::read(&path).map_err(about)?;
                let mut header = Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o600);
                self.archive.append_data(&mut header, below.join("/"), bytes.as_slice())?;
            }
            below.pop();
        }
        Ok(())
    }
}
