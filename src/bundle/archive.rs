//! A gzipped tar archive becomes a bundle. Nothing is written to disk, and nothing of it is believed: names, links,
//! sizes and counts are checked before a byte is parsed.
//!
//! The archive is read twice, so that at no time more than one of its files is held beside the values made of them:
//! the signature and the manifest, which say what to make of the rest, may be anywhere in it.

use std::cell::Cell;
use std::collections::HashSet;
use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType, PaxExtensions};

use super::signature::{Claims, Content, Verification};
use super::{Bundle, BundleError, Manifest};
use crate::policy::{self, Data, RegoFile};

/// Bounds of one bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `size_limit_bytes`. OPA holds each file to it; here it also holds for all files together, and for the archive
    /// as it comes over the wire: many files below it are a bomb just the same.
    pub size_bytes: u64,
}

/// OPA's is 1 GiB. Parsed data takes several times its size, and a sidecar has less than that.
pub const DEFAULT_SIZE_BYTES: u64 = 256 * 1024 * 1024;
/// Files, directories and headers. Each costs a name in memory, and an empty one next to nothing on the wire.
const MAX_ENTRIES: usize = 100_000;
/// Bytes of a header that extends another: a long name, or attributes.
const MAX_HEADER_BYTES: u64 = 64 * 1024;
/// Bytes of a path. As on Linux.
const MAX_PATH_BYTES: usize = 4096;
/// Directories that a file lies below. Data nests as deep, and the engine has a bound of 128.
const MAX_PATH_DEPTH: usize = 64;
/// What tar adds to a file, at most: its header and padding, and the same for each of two headers that extend it.
const TAR_OVERHEAD_BYTES: u64 = 3 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self { size_bytes: DEFAULT_SIZE_BYTES }
    }
}

/// Reads and verifies. `name` is the bundle's, for the names of its modules. Takes seconds for large bundles.
///
/// # Errors
/// Whatever keeps the archive from being used.
pub fn read(
    name: &str,
    archive: &[u8],
    limits: Limits,
    verification: Option<&Verification>,
) -> Result<Bundle, BundleError> {
    let Contents { signatures, manifest } = survey(archive, limits)?;
    let mut values_left = policy::MAX_VALUES;
    if let Some(signatures) = &signatures {
        charge(&mut values_left, policy::count_json_values(signatures))?;
    }
    let mut claims = match (signatures, verification) {
        (Some(signatures), Some(verification)) => Some(verification.verify(&signatures)?),
        (Some(_), None) => {
            let message = "it is signed, and no key to verify it with is configured";
            return Err(BundleError::Signature(message.to_owned()));
        }
        (None, Some(verification)) if verification.is_required => {
            return Err(BundleError::Signature(
                "it has no .signatures.json, and a signature is required".to_owned(),
            ));
        }
        (None, _) => None,
    };
    let manifest = match manifest {
        Some(bytes) => {
            charge(&mut values_left, policy::count_json_values(&bytes))?;
            if let Some(claims) = &mut claims
                && claims.covers(MANIFEST)?
            {
                claims.check(MANIFEST, Content::Json(&bytes))?;
            }
            Manifest::parse(&bytes)?
        }
        None => Manifest::default(),
    };
    let bundle = Bundle { manifest, modules: Vec::new(), data: Data::default() };
    let mut reader = Reader { bundle, name, values_left };
    walk(archive, limits, |path, size, content| {
        let kind = Kind::of(path);
        if matches!(kind, Kind::Signatures | Kind::Manifest) {
            return Ok(());
        }
        // Before a byte of it is read: anybody can put a file beside somebody else's signature.
        let is_signed = match &mut claims {
            Some(claims) => claims.covers(path)?,
            None => false,
        };
        if kind == Kind::Other && !is_signed {
            return Ok(());
        }
        let bytes = whole(path, size, content)?;
        reader.add(path, kind, bytes, claims.as_mut().filter(|_| is_signed))
    })?;
    if let Some(claims) = claims {
        claims.finish()?;
    }
    let bundle = reader.bundle;
    bundle.manifest.check_data(&bundle.data)?;
    Ok(bundle)
}

const MANIFEST: &str = ".manifest";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Signatures,
    Manifest,
    Module,
    Json,
    Yaml { is_structured: bool },
    Other,
}

impl Kind {
    fn of(path: &str) -> Self {
        let file = path.rsplit('/').next().unwrap_or(path);
        // As it is written: to OPA `.REGO` is no extension.
        if file.rsplit_once('.').is_some_and(|(_, extension)| extension == "rego") {
            return Self::Module;
        }
        match file {
            ".signatures.json" if !path.contains('/') => Self::Signatures,
            MANIFEST if !path.contains('/') => Self::Manifest,
            "data.json" => Self::Json,
            "data.yaml" => Self::Yaml { is_structured: true },
            // OPA's signatures are over the bytes of this one.
            "data.yml" => Self::Yaml { is_structured: false },
            _ => Self::Other,
        }
    }
}

struct Reader<'a> {
    bundle: Bundle,
    name: &'a str,
    /// That all files together may still have.
    values_left: usize,
}

impl Reader<'_> {
    /// Checks the file against what was signed as early as its hash allows, and reads it. Only of `data.yaml` the hash is
    /// over what it means.
    fn add(
        &mut self,
        path: &str,
        kind: Kind,
        bytes: Vec<u8>,
        mut claims: Option<&mut Claims>,
    ) -> Result<(), BundleError> {
        let mut check = |content: Content<'_>| match &mut claims {
            Some(claims) => claims.check(path, content),
            None => Ok(()),
        };
        let not = |what: &str, error: &policy::BadData| {
            BundleError::Content(format!("{path}: not {what}: {error}"))
        };
        let document = match kind {
            Kind::Json => {
                charge(&mut self.values_left, policy::count_json_values(&bytes))?;
                check(Content::Json(&bytes))?;
                policy::read_json(&bytes).map_err(|error| not("JSON", &error))?
            }
            Kind::Yaml { is_structured } => {
                if !is_structured {
                    check(Content::Bytes(&bytes))?;
                }
                let read = policy::read_yaml(&bytes, self.values_left);
                let (document, count) = read.map_err(|error| not("YAML", &error))?;
                charge(&mut self.values_left, count)?;
                if is_structured {
                    check(Content::Yaml(&document))?;
                }
                document
            }
            Kind::Module => {
                check(Content::Bytes(&bytes))?;
                return self.add_module(path, bytes);
            }
            Kind::Signatures | Kind::Manifest | Kind::Other => return check(Content::Bytes(&bytes)),
        };
        let mut directory: Vec<_> = path.split('/').collect();
        directory.pop();
        // As OPA, which takes the dot off a hidden directory's name.
        if let Some(first) = directory.first_mut() {
            *first = first.trim_start_matches('.');
        }
        let placed = self.bundle.data.insert(&directory, document);
        placed.map_err(|error| BundleError::Content(format!("{path}: {error}")))
    }

    fn add_module(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), BundleError> {
        let text = String::from_utf8(bytes)
            .map_err(|error| BundleError::Content(format!("{path}: not UTF-8: {}", error.utf8_error())))?;
        let version = self.bundle.manifest.version(path, &text)?;
        let module = RegoFile { version, ..RegoFile::new(format!("{}/{path}", self.name), text) };
        let package = module.package().map_err(|problem| BundleError::Content(problem.to_string()))?;
        self.bundle.manifest.check_package(path, &package)?;
        self.bundle.modules.push(module);
        Ok(())
    }
}

fn charge(left: &mut usize, count: usize) -> Result<(), BundleError> {
    *left = left.checked_sub(count).ok_or_else(|| {
        BundleError::TooLarge(format!("its data has more than {} values", policy::MAX_VALUES))
    })?;
    Ok(())
}

struct Contents {
    signatures: Option<Vec<u8>>,
    manifest: Option<Vec<u8>>,
}

/// The first look: all of the archive is sound, and what says how to read it.
fn survey(archive: &[u8], limits: Limits) -> Result<Contents, BundleError> {
    if archive.is_empty() {
        return Err(BundleError::Archive("it is empty".to_owned()));
    }
    if !archive.starts_with(&[0x1f, 0x8b]) {
        return Err(BundleError::Archive("it is not gzipped".to_owned()));
    }
    let mut names = HashSet::new();
    let mut contents = Contents { signatures: None, manifest: None };
    walk(archive, limits, |path, size, content| {
        if !names.insert(path.to_owned()) {
            return Err(BundleError::Archive(format!("{path:?} is in it twice")));
        }
        match Kind::of(path) {
            Kind::Signatures => contents.signatures = Some(whole(path, size, content)?),
            Kind::Manifest => contents.manifest = Some(whole(path, size, content)?),
            _ if path == "patch.json" => {
                let message = "a delta bundle (patch.json), and only snapshots are supported";
                return Err(BundleError::Unsupported(message.to_owned()));
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(contents)
}

/// Counts what comes out of the decompressor, and stops at a bound.
struct Metered<'m, R> {
    inner: R,
    left: &'m Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64);
        self.left.set(left.unwrap_or(0));
        if left.is_none() { Err(io::Error::other("too much")) } else { Ok(count) }
    }
}

/// Visits each file: its path, its size and its content, which need not be read.
fn walk(
    archive: &[u8],
    limits: Limits,
    mut visit: impl FnMut(&str, u64, &mut dyn Read) -> Result<(), BundleError>,
) -> Result<(), BundleError> {
    let overhead = TAR_OVERHEAD_BYTES * MAX_ENTRIES as u64;
    let left = Cell::new(limits.size_bytes.saturating_add(overhead));
    let broken = |error: io::Error| {
        if left.get() == 0 {
            too_large(limits)
        } else if error.kind() == io::ErrorKind::UnexpectedEof {
            BundleError::CutOff("the archive is incomplete".to_owned())
        } else {
            BundleError::Archive(format!("not a gzipped tar archive: {error}"))
        }
    };
    let mut tar = Archive::new(Metered { inner: MultiGzDecoder::new(archive), left: &left });
    let (mut total, mut extended) = (0_u64, Extended::default());
    // Raw: otherwise the library reads extending headers into memory, however long they say they are.
    for (index, entry) in tar.entries().map_err(broken)?.raw(true).enumerate() {
        let mut entry = entry.map_err(broken)?;
        if index >= MAX_ENTRIES {
            return Err(BundleError::TooLarge(format!("it has more than {MAX_ENTRIES} entries")));
        }
        let (kind, size) = (entry.header().entry_type(), entry.size());
        if is_extension(kind) {
            let mut bytes = Vec::new();
            if size > MAX_HEADER_BYTES {
                let message = format!("a header in it has {size} bytes, and the limit is {MAX_HEADER_BYTES}");
                return Err(BundleError::TooLarge(message));
            }
            entry.read_to_end(&mut bytes).map_err(broken)?;
            extended.take(kind, &bytes)?;
            continue;
        }
        let extended = std::mem::take(&mut extended);
        let raw_path = extended.path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let path = normal_path(&raw_path)?;
        match kind {
            EntryType::Directory => continue,
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Symlink | EntryType::Link => {
                return Err(BundleError::Archive(format!("{path:?} is a link; a bundle holds files only")));
            }
            _ => return Err(BundleError::Archive(format!("{path:?} is neither a file nor a directory"))),
        }
        if path.is_empty() {
            return Err(BundleError::Archive("a file in it has no name".to_owned()));
        }
        total = total.saturating_add(size);
        if total > limits.size_bytes {
            return Err(too_large(limits));
        }
        visit(&path, size, &mut entry)?;
    }
    // To the end, where gzip's checksum is; a tar archive ends before it.
    let mut rest = tar.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(broken)?;
    Ok(())
}

fn too_large(limits: Limits) -> BundleError {
    let limit = limits.size_bytes;
    BundleError::TooLarge(format!("its files exceed size_limit_bytes, which is {limit}"))
}

fn whole(path: &str, size: u64, content: &mut dyn Read) -> Result<Vec<u8>, BundleError> {
    let mut bytes = Vec::new();
    let cut_off = |reason: &dyn std::fmt::Display| BundleError::CutOff(format!("{path}: {reason}"));
    content.read_to_end(&mut bytes).map_err(|error| cut_off(&error))?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(cut_off(&"shorter than its header says")) }
}

fn is_extension(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink
    )
}

/// What headers said of the entry after them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
}

impl Extended {
    fn take(&mut self, kind: EntryType, bytes: &[u8]) -> Result<(), BundleError> {
        match kind {
            EntryType::GNULongName => {
                self.path = Some(bytes.split(|byte| *byte == 0).next().unwrap_or(bytes).to_vec());
            }
            EntryType::XHeader => {
                for extension in PaxExtensions::new(bytes) {
                    let extension = extension.map_err(|error| {
                        BundleError::Archive(format!("a header in it cannot be read: {error}"))
                    })?;
                    match extension.key_bytes() {
                        b"path" => self.path = Some(extension.value_bytes().to_vec()),
                        // Another size than the one that was counted; only files over 8 GiB need it.
                        key if key == b"size" || key.starts_with(b"GNU.sparse") => {
                            return Err(BundleError::Archive(
                                "sparse and oversized files are not read".to_owned(),
                            ));
                        }
                        _ => {}
                    }
                }
            }
            // Links are refused, and what holds for all entries is the archiver's note to itself.
            _ => {}
        }
        Ok(())
    }
}

/// Relative to the bundle's root, without `.` and without the slash that OPA puts before every name. Empty: the root.
pub(super) fn normal_path(name: &[u8]) -> Result<String, BundleError> {
    let shown = String::from_utf8_lossy(name);
    let wrong = |what: &str| {
        BundleError::Archive(format!("{:?}: {what}", shown.chars().take(200).collect::<String>()))
    };
    if name.len() > MAX_PATH_BYTES {
        return Err(wrong("a longer path than any system has"));
    }
    let text = std::str::from_utf8(name).map_err(|_| wrong("a path that is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(wrong("control characters in a path"));
    }
    let parts: Vec<_> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(wrong("a path that leads out of the bundle"));
    }
    if parts.len() > MAX_PATH_DEPTH {
        return Err(wrong("a path through too many directories"));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests;
