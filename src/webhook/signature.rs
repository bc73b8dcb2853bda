//! Proof for the receiver that a delivery is ours and new: HMAC-SHA256 over the moment and the body.

use std::path::Path;

use ring::hmac;

/// What the key's file, and those of headers, may hold, in bytes.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// `v1=` and the hexadecimal HMAC of "timestamp.body".
#[must_use]
pub fn sign(secret: &[u8], timestamp: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(timestamp.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    format!("v1={}", data_encoding::HEXLOWER.encode(context.sign().as_ref()))
}

/// A secret, without the line's end that editors leave. Blocking.
///
/// # Errors
/// The file cannot be read, is empty or too long, or others can read it.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    // Of what was opened, not of what is under the name by now.
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{} can be read by others (mode {mode:03o}); chmod 600 it", path.display()));
    }
    let mut secret = Vec::new();
    file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut secret).map_err(failed)?;
    if secret.len() as u64 > MAX_SECRET_BYTES {
        return Err(format!("{} is longer than {MAX_SECRET_BYTES} bytes", path.display()));
    }
    while secret.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        secret.pop();
    }
    if secret.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(secret) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_others_compute_it() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        let wanted = "v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        assert_eq!(sign(b"key", 1_700_000_000, b"{}"), wanted);
    }

    #[test]
    fn a_key_is_private_and_there() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let write = |content: &[u8], mode| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read_secret(&path)
        };
        assert_eq!(write(b"secret\r\n", 0o600), Ok(b"secret".to_vec()));
        assert_eq!(write(&[0, 255], 0o400), Ok(vec![0, 255]));
        for (content, mode, message) in
            [(b"secret".as_slice(), 0o640, "others"), (b"secret", 0o604, "others"), (b"\n", 0o600, "empty")]
        {
            assert!(write(content, mode).unwrap_err().contains(message), "{message}");
        }
        assert!(write(&vec![b'x'; 70_000], 0o600).unwrap_err().contains("longer"));
        assert!(read_secret(&dir.path().join("none")).is_err());
    }
}
