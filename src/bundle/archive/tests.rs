//! Archives as `tar` makes them, and such as only an enemy would.

use std::io::Write;
use std::process::Command;
use std::sync::LazyLock;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use ring::hmac;
use serde_json::json;
use tar::{Builder, Header};

use super::*;
use crate::bundle::{Algorithm, Key};

static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| plain(&[("data.json", "{}"), ("x.rego", "package x")]));

const LIMITS: Limits = Limits { size_bytes: 1 << 20 };

/// By the `tar` that people build bundles with.
fn packed(files: &[(&str, &str)], how: &[&str], what: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let output =
        Command::new("tar").args(how).arg("-czf-").arg(what).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn plain(files: &[(&str, &str)]) -> Vec<u8> {
    packed(files, &[], ".")
}

fn gzipped(tar: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(tar).unwrap();
    gzip.finish().unwrap()
}

/// With names that `tar` would not write: bytes go into the header as they are.
fn entries(entries: &[(&[u8], EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    gzipped(&tar.into_inner().unwrap())
}

fn unsigned(archive: &[u8]) -> Result<Bundle, BundleError> {
    read("authz", archive, LIMITS, None)
}

fn refusal(archive: &[u8]) -> (&'static str, String) {
    let error = unsigned(archive).unwrap_err();
    (error.code(), error.to_string())
}

#[test]
fn what_tar_packs() {
    let files = [
        (".manifest", r#"{"revision": "r1", "roots": ["roles", "app"], "metadata": {"x": 1}}"#),
        ("roles/data.json", r#"{"admin": ["alice"]}"#),
        ("roles/bindings/data.yaml", "bob: [viewer]\n"),
        ("app/deep/data.yml", "- 1\n"),
        ("app/authz.rego", "package app.authz\nallow := true"),
        ("app/authz_test.json", "not read"),
        ("README", "not read"),
        ("app/policy.wasm", "\u{0}asm"),
    ];
    for how in
        [&["--format=gnu"][..], &["--format=ustar"], &["--format=pax"], &["-P", "--transform=s,^\\.,,"]]
    {
        let bundle = unsigned(&packed(&files, how, ".")).unwrap();
        assert_eq!(bundle.manifest.revision.as_deref(), Some("r1"));
        let manifest = bundle.manifest.document.to_json().unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest["metadata"]["x"], json!(1));
        let data =
            json!({"roles": {"admin": ["alice"], "bindings": {"bob": ["viewer"]}}, "app": {"deep": [1]}});
        assert_eq!(Ok(bundle.data), Data::from_json(&data.to_string()), "{how:?}");
        assert_eq!(bundle.modules.len(), 1);
        assert_eq!(bundle.modules[0].name, "authz/app/authz.rego");
    }
    let long = format!("{}/data.json", ["directory"; 30].join("/"));
    for how in ["--format=gnu", "--format=pax"] {
        let bundle = unsigned(&packed(&[(&long, "1")], &[how], ".")).unwrap();
        assert_eq!(bundle.data.root().members().count(), 1, "{how}");
    }
    let comment = packed(&files, &["--format=pax", "--pax-option=comment=0123abcd"], ".");
    assert!(unsigned(&comment).is_ok(), "`git archive` writes such a header");
}

#[test]
fn names_as_opa_writes_them() {
    let file = EntryType::Regular;
    let archive =
        entries(&[(b"/data.json", file, b"{\"a\": 1}"), (b"/.manifest", file, b"{\"revision\": \"x\"}")]);
    let bundle = unsigned(&archive).unwrap();
    assert_eq!(Ok(bundle.data), Data::from_json("{\"a\": 1}"));
    assert_eq!(bundle.manifest.revision.as_deref(), Some("x"));
}

#[test]
fn paths_and_kinds_that_no_bundle_has() {
    let (file, text) = (EntryType::Regular, &b"{}"[..]);
    for (name, part) in [
        (&b"../data.json"[..], "leads out"),
        (b"a/../../data.json", "leads out"),
        (b"/..", "leads out"),
        (b"a\nb/data.json", "control"),
        (b"\xff/data.json", "UTF-8"),
        (b"./", "no name"),
        (&b"a/".repeat(45), "no such"),
    ] {
        let result = unsigned(&entries(&[(name, file, text)]));
        match result {
            Err(error) => assert!(error.code() == "archive" && error.to_string().contains(part), "{error}"),
            Ok(_) => assert_eq!(part, "no such"),
        }
    }
    for (kind, part) in [
        (EntryType::Symlink, "link"),
        (EntryType::Link, "link"),
        (EntryType::Fifo, "neither"),
        (EntryType::Char, "neither"),
        (EntryType::GNUSparse, "neither"),
    ] {
        let (code, message) = refusal(&entries(&[(b"data.json", kind, b"")]));
        assert!(code == "archive" && message.contains(part), "{message}");
    }
    let twice = entries(&[(b"data.json", file, b"{}"), (b"./data.json", file, b"{\"a\": 1}")]);
    assert!(refusal(&twice).1.contains("twice"));
    let deep = "a/".repeat(MAX_PATH_DEPTH + 1) + "x";
    assert!(refusal(&packed(&[(&deep, "")], &[], ".")).1.contains("too many directories"));
}

#[test]
fn sizes_are_bounded_before_anything_is_kept() {
    let zeros = vec![b' '; 2 << 20];
    let bomb = entries(&[(b"data.json", EntryType::Regular, &zeros)]);
    assert!(bomb.len() < 10_000);
    assert_eq!(refusal(&bomb).0, "too_large");
    let half = vec![b' '; 700 << 10];
    let many: [(&[u8], EntryType, &[u8]); 2] =
        [(b"a", EntryType::Regular, &half), (b"b", EntryType::Regular, &half)];
    assert_eq!(refusal(&entries(&many)).0, "too_large");
    // A file that says it has 8 GiB, and a name that has a megabyte.
    let mut header = Header::new_gnu();
    header.set_path("data.json").unwrap();
    header.set_size(8 << 30);
    header.set_cksum();
    assert_eq!(refusal(&gzipped(header.as_bytes())).0, "too_large");
    let name = vec![b'a'; 1 << 20];
    assert_eq!(refusal(&entries(&[(b"x", EntryType::GNULongName, &name)])).0, "too_large");
    assert_eq!(refusal(&entries(&[(b"x", EntryType::XHeader, &name)])).0, "too_large");
    // What follows the end of a tar archive is never a file, and still counts.
    let mut padded = Builder::new(Vec::new()).into_inner().unwrap();
    padded.resize(400 << 20, 0);
    assert_eq!(refusal(&gzipped(&padded)).0, "too_large");
}

#[test]
fn many_entries_are_too_many() {
    let mut tar = Builder::new(Vec::new());
    for index in 0..=MAX_ENTRIES {
        let mut header = Header::new_gnu();
        header.set_path(format!("{index}")).unwrap();
        header.set_size(0);
        header.set_cksum();
        tar.append(&header, &[][..]).unwrap();
    }
    let (code, message) = refusal(&gzipped(&tar.into_inner().unwrap()));
    assert!(code == "too_large" && message.contains("entries"), "{message}");
}

#[test]
fn what_is_no_archive() {
    assert_eq!(refusal(b""), ("archive", "it is empty".to_owned()));
    assert_eq!(refusal(b"<html>"), ("archive", "it is not gzipped".to_owned()));
    assert_eq!(refusal(&gzipped(b"not a tar archive, however long this text may be")).0, "archive");
    assert_eq!(refusal(&gzipped(&[b'x'; 1024])).0, "archive");
    let whole = plain(&[("data.json", "{\"a\": [1, 2, 3]}"), ("x.rego", "package x")]);
    for length in 1..whole.len() {
        let (code, message) = refusal(&whole[..length]);
        assert!(matches!(code, "cut_off" | "archive"), "{length}: {message}");
    }
    for at in 10..whole.len() {
        let mut broken = whole.clone();
        broken[at] ^= 0x10;
        // A bit of the compression's own tables may mean nothing.
        assert!(unsigned(&broken).map_or(true, |bundle| Ok(bundle) == unsigned(&whole)), "{at}");
    }
    let mut trailing = whole.clone();
    trailing.extend_from_slice(b"garbage");
    assert!(unsigned(&trailing).is_err());
    assert!(unsigned(&whole).is_ok());
}

#[test]
fn files_that_are_not_what_their_names_say() {
    for (files, code, part) in [
        (&[("data.json", "{")][..], "content", "data.json: not JSON"),
        (&[("data.json", "[]")], "content", "must be an object"),
        (&[("data.yaml", "a: [")], "content", "data.yaml: not YAML"),
        (&[("a/data.json", "1"), ("data.json", "{\"a\": {}}")], "content", "data.a is set"),
        (&[(".manifest", "revision: 1")], "content", ".manifest: not JSON"),
        (&[("x.rego", "package")], "content", "authz/x.rego"),
        (&[("patch.json", "{\"data\": []}")], "unsupported", "delta"),
        (
            &[(".manifest", "{\"roots\": [\"a\"]}"), ("x.rego", "package b")],
            "content",
            "do not permit package b",
        ),
        (
            &[(".manifest", "{\"roots\": [\"a\"]}"), ("data.json", "{\"b\": 1}")],
            "content",
            "do not permit data at",
        ),
    ] {
        let (found, message) = refusal(&plain(files));
        assert!(found == code && message.contains(part), "{found} {message}");
    }
}

/// A token over these files, by the rules of OPA's documentation.
fn token(key: &str, kid: &str, payload: &serde_json::Value) -> String {
    let header = json!({"alg": "HS256", "typ": "JWT", "kid": kid}).to_string();
    let parts = [header, payload.to_string()].map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
    let signed = parts.join(".");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
}

fn sha256(content: &str) -> String {
    HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, content.as_bytes()).as_ref())
}

/// Each file: name, content, and the form of it that is hashed.
const SIGNED: [(&str, &str, &str); 5] = [
    (".manifest", "{\"roots\": [\"\"], \"revision\":\"s\"}", "{\"revision\":\"s\",\"roots\":[\"\"]}"),
    ("data.json", "{\"b\": 1.50E0, \"a\": [true, \"<\\u00e9>\"]}", "{\"a\":[true,\"<é>\"],\"b\":1.50E0}"),
    ("y/data.yaml", "b: 1.50\na: yes\n", "{\"a\":true,\"b\":1.5}"),
    ("x.rego", "package x\n", "package x\n"),
    ("notes/other.json", "{ \"kept\": \"as it is\" }", "{ \"kept\": \"as it is\" }"),
];

fn claims() -> Vec<serde_json::Value> {
    let claim = |(name, _, form): &(&str, &str, &str)| json!({"name": name, "hash": sha256(form), "algorithm": "SHA-256"});
    SIGNED.iter().map(claim).collect()
}

fn signed(token: &str, change: impl Fn(&str, &str) -> Option<String>) -> Vec<u8> {
    let signatures = json!({"signatures": [token]}).to_string();
    let mut files: Vec<(&str, String)> =
        SIGNED.iter().filter_map(|(name, text, _)| change(name, text).map(|text| (*name, text))).collect();
    files.extend(change("added.rego", "").filter(|text| !text.is_empty()).map(|text| ("added.rego", text)));
    files.push((".signatures.json", signatures));
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    plain(&files)
}

#[expect(clippy::unnecessary_wraps, reason = "others take files away")]
fn same(_: &str, text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn verification() -> Verification {
    let key = |secret: &str| Key::new(Algorithm::Hs256, secret, None).unwrap();
    let keys = [("one".to_owned(), key("secret")), ("two".to_owned(), key("other"))].into();
    Verification { keys, is_required: true, ..Verification::default() }
}

fn verified(archive: &[u8], verification: &Verification) -> Result<Bundle, String> {
    read("authz", archive, LIMITS, Some(verification)).map_err(|error| {
        assert_eq!(error.code(), "signature", "{error}");
        error.to_string()
    })
}

#[test]
fn a_signature_covers_every_file() {
    let good = token("secret", "one", &json!({"files": claims(), "scope": ""}));
    let bundle = verified(&signed(&good, same), &verification()).unwrap();
    assert_eq!((bundle.modules.len(), bundle.data.root().members().count()), (1, 3));
    let refusal = |change: &dyn Fn(&str, &str) -> Option<String>| {
        verified(&signed(&good, change), &verification()).unwrap_err()
    };
    let changed = |at: &'static str, with: &'static str| {
        move |name: &str, text: &str| Some(if name == at { with } else { text }.to_owned())
    };
    assert!(
        refusal(&changed("data.json", "{\"b\": 1.5, \"a\": [true, \"<é>\"]}"))
            .contains("data.json: its hash")
    );
    assert!(refusal(&changed("x.rego", "package x")).contains("x.rego: its hash"));
    assert!(refusal(&changed(".manifest", "{\"revision\": \"t\"}")).contains(".manifest: its hash"));
    assert!(refusal(&changed("notes/other.json", "{}")).contains("other.json: its hash"));
    assert!(refusal(&changed("added.rego", "package added")).contains("added.rego: not in the signature"));
    assert!(
        refusal(&|name, text| (name != "x.rego").then(|| text.to_owned()))
            .contains("not in the bundle: x.rego")
    );
    // White space and order are not signed.
    let respaced = changed("data.json", "{\"a\":[ true , \"<é>\" ], \"b\":1.50E0}");
    assert!(verified(&signed(&good, respaced), &verification()).is_ok());
    let excluding = Verification {
        exclude: vec![crate::bundle::pattern::Pattern::path("*.rego").unwrap()],
        ..verification()
    };
    for change in ["package x", "package added"] {
        let at = if change == "package x" { "x.rego" } else { "added.rego" };
        assert!(verified(&signed(&good, changed(at, change)), &excluding).is_ok(), "{change}");
    }
    assert!(verified(&signed(&good, changed("notes/other.json", "{}")), &excluding).is_err());
}

#[test]
fn tokens_that_are_refused() {
    let good = json!({"files": claims()});
    let refusal =
        |token: &str, verification: &Verification| verified(&signed(token, same), verification).unwrap_err();
    let all = verification();
    assert!(refusal(&token("wrong", "one", &good), &all).contains("not made with key \"one\""));
    assert!(refusal(&token("secret", "two", &good), &all).contains("not made with key \"two\""));
    assert!(refusal(&token("secret", "three", &good), &all).contains("no key \"three\""));
    assert!(refusal(&token("secret", "", &good), &all).contains("which key"));
    let by_claim = token("secret", "", &json!({"files": claims(), "keyid": "one"}));
    assert!(verified(&signed(&by_claim, same), &all).is_ok(), "where the key was named before");
    let fixed = Verification { key_id: Some("one".to_owned()), ..verification() };
    assert!(
        verified(&signed(&token("secret", "two", &good), same), &fixed).is_ok(),
        "configuration comes first"
    );
    assert!(refusal(&token("other", "two", &good), &fixed).contains("not made with key \"one\""));
    let scoped = Verification { scope: Some("read".to_owned()), ..verification() };
    assert!(refusal(&token("secret", "one", &good), &scoped).contains("scope"));
    let in_scope = token("secret", "one", &json!({"files": claims(), "scope": "read"}));
    assert!(verified(&signed(&in_scope, same), &scoped).is_ok());
    assert!(refusal(&in_scope, &all).contains("scope"));
    for (hash, algorithm, part) in [
        ("00", "MD5", "forged"),
        ("00", "SHA-3", "not supported"),
        ("00", "", "no hashing"),
        ("x", "SHA-256", "its hash"),
    ] {
        let files = json!({"files": [{"name": "x.rego", "hash": hash, "algorithm": algorithm}]});
        assert!(refusal(&token("secret", "one", &files), &all).contains(part), "{part}");
    }
    let mut twice = claims();
    twice.push(json!({"name": "/x.rego", "hash": "00", "algorithm": "SHA-256"}));
    assert!(refusal(&token("secret", "one", &json!({"files": twice})), &all).contains("twice"));
    let unsigned_header = BASE64URL_NOPAD.encode(br#"{"alg":"none","kid":"one"}"#);
    let none = format!("{unsigned_header}.{}.", BASE64URL_NOPAD.encode(good.to_string().as_bytes()));
    assert!(refusal(&none, &all).contains("\"none\""));
    for text in ["", "a.b", "a.b.c.d", "é.e.e", "e30.e30.e30"] {
        refusal(text, &all);
    }
}

#[test]
fn whether_a_signature_is_needed() {
    let unsigned_archive = plain(&[("x.rego", "package x")]);
    let optional = Verification { is_required: false, ..verification() };
    assert!(verified(&unsigned_archive, &optional).is_ok());
    assert!(verified(&unsigned_archive, &verification()).unwrap_err().contains("required"));
    let archive = signed(&token("secret", "one", &json!({"files": claims()})), same);
    assert!(verified(&archive, &optional).is_ok());
    assert_eq!(refusal(&archive).0, "signature");
    for signatures in
        ["", "[]", "{}", "{\"signatures\": []}", "{\"signatures\": [\"a\", \"b\"]}", "{\"signatures\": 1}"]
    {
        let archive = plain(&[("x.rego", "package x"), (".signatures.json", signatures)]);
        assert!(read("authz", &archive, LIMITS, Some(&optional)).is_err(), "{signatures}");
    }
    // One that is not at the root is a file like any other, and has to be signed.
    let files = json!({"files": [{"name": "x.rego", "hash": sha256("package x"), "algorithm": "SHA-256"}]});
    let signatures = json!({"signatures": [token("secret", "one", &files)]}).to_string();
    let archive = plain(&[
        ("x.rego", "package x"),
        (".signatures.json", &signatures),
        ("a/.signatures.json", &signatures),
    ]);
    assert!(verified(&archive, &optional).unwrap_err().contains("a/.signatures.json: not in the signature"));
}

/// Beside a signature that is good, so that all but the files themselves is believed.
fn beside_a_signature(path: &str, text: &str, names: &[&str]) -> Result<Bundle, BundleError> {
    let claim = |name: &&str| json!({"name": name, "hash": "00", "algorithm": "SHA-256"});
    let files: Vec<_> = names.iter().map(claim).collect();
    let signatures = json!({"signatures": [token("secret", "one", &json!({"files": files}))]}).to_string();
    let archive = plain(&[(path, text), (".signatures.json", &signatures)]);
    read("authz", &archive, Limits { size_bytes: 1 << 28 }, Some(&verification()))
}

#[test]
fn what_is_not_signed_is_not_parsed() {
    for path in ["data.json", "data.yaml", "data.yml", "x.rego", "a/data.json", ".manifest", "other"] {
        let error = beside_a_signature(path, "{ [ \"", &["elsewhere"]).unwrap_err();
        assert_eq!(error.to_string(), format!("{path}: not in the signature"));
    }
    for path in ["data.yml", "x.rego"] {
        let error = beside_a_signature(path, "{ [ \"", &[path]).unwrap_err();
        assert!(error.to_string().contains("its hash is"), "{error}");
    }
    for path in ["data.json", ".manifest"] {
        let error = beside_a_signature(path, "{ [ \"", &[path]).unwrap_err();
        assert_eq!(error.to_string(), format!("{path}: not JSON"));
    }
}

#[test]
fn aliases_are_paid_for_before_the_hash() {
    let file = format!("a: &x \"{}\"\nb:\n{}", "A".repeat(1 << 20), "- *x\n".repeat(20_000));
    let error = beside_a_signature("data.yaml", &file, &["data.yaml"]).unwrap_err();
    assert!(error.to_string().contains("excessive aliasing"), "{error}");
    let nested = "&a [ ".repeat(100);
    let file = format!("{nested}\"{}\"{}", "A".repeat(1 << 20), "]".repeat(100));
    let error = beside_a_signature("data.yaml", &file, &["data.yaml"]).unwrap_err();
    assert!(error.to_string().contains("its hash is"), "{error}");
}

#[test]
fn values_are_counted_before_they_are_made() {
    let file = format!("{{\"a\":[{}0]}}", "{\"\":0},".repeat(policy::MAX_VALUES / 2));
    for names in [&["data.json"][..], &["elsewhere"]] {
        let error = beside_a_signature("data.json", &file, names).unwrap_err();
        assert_eq!(error.code(), if names == ["elsewhere"] { "signature" } else { "too_large" });
    }
    let many = format!("{{\"signatures\": [{}\"\"]}}", "\"\",".repeat(policy::MAX_VALUES));
    let archive = plain(&[(".signatures.json", &many)]);
    assert_eq!(read("authz", &archive, Limits::default(), None).unwrap_err().code(), "too_large");
    // Of all files together.
    let half = format!("[{}0]", "0,".repeat(policy::MAX_VALUES / 2));
    let archive = plain(&[("a/data.json", &half), ("b/data.json", &half)]);
    let error = read("authz", &archive, Limits::default(), None).unwrap_err();
    assert_eq!(error.to_string(), format!("its data has more than {} values", policy::MAX_VALUES));
}

#[test]
fn a_deep_file_fits_on_a_stack() {
    let deep = format!("{}1{}", "{\"a\":".repeat(policy::MAX_DEPTH), "}".repeat(policy::MAX_DEPTH));
    let files = json!([{"name": "data.json", "hash": sha256(&deep), "algorithm": "SHA-256"}]);
    let token = token("secret", "one", &json!({"files": files}));
    let signatures = json!({"signatures": [token]}).to_string();
    let archive = plain(&[("data.json", &deep), (".signatures.json", &signatures)]);
    assert!(verified(&archive, &verification()).is_ok());
}

#[test]
fn no_member_has_a_magic_name() {
    let text = "{\"a\":{\"$serde_json::private::Number\":\"1e3\"}}";
    let bundle =
        unsigned(&plain(&[("data.json", text), (".manifest", &format!("{{\"x\":{text}}}"))])).unwrap();
    assert_eq!(bundle.data.root().members().next().unwrap().1.unwrap().members().count(), 1);
    assert!(bundle.manifest.document.to_json().unwrap().contains("private::Number"));
}

proptest! {
    #[test]
    fn whatever_is_in_it_it_ends(
        tar in proptest::collection::vec(any::<u8>(), 0..3000),
        at in 0_usize..2048,
        bytes in proptest::collection::vec(any::<u8>(), 1..8),
    ) {
        _ = unsigned(&gzipped(&tar));
        // A good archive with something else in one place, and a checksum of gzip that fits.
        let mut whole = Vec::new();
        MultiGzDecoder::new(SMALL.as_slice()).read_to_end(&mut whole).unwrap();
        whole.splice(at..at + bytes.len(), bytes);
        _ = unsigned(&gzipped(&whole));
    }
}
