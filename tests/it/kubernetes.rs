//! The manifests in envoy/kubernetes, without a cluster: rendered, and held against schemas, a real Envoy and this daypass.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

use crate::support::daypass::write_file;
use crate::support::{node_packages, tool};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn manifests() -> PathBuf {
    Path::new(ROOT).join("envoy/kubernetes")
}

struct Validator {
    python: PathBuf,
    envoy: PathBuf,
    certificates: tempfile::TempDir,
}

impl Validator {
    fn new() -> Option<Self> {
        // The script that the package brings lies beside the Python that has it.
        let python = tool("kubernetes-validate")?.with_file_name("python");
        let envoy = tool("envoy")?;
        // Other projects' schemas, and what runs them.
        tool("node")?;
        node_packages()?;
        let certificates = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        write_file(certificates.path(), "ca.crt", &params.self_signed(&key).unwrap().pem());
        write_file(certificates.path(), "ca.key", &key.serialize_pem());
        Some(Self { python, envoy, certificates })
    }

    fn run(&self, more: &[&str]) -> (Output, String) {
        let output = Command::new(&self.python)
            .arg(Path::new(ROOT).join("tests/kubernetes/validate.py"))
            .args(["--daypass", env!("CARGO_BIN_EXE_daypass"), "--envoy"])
            .arg(&self.envoy)
            .arg("--certificates")
            .arg(self.certificates.path())
            .args(more)
            .output()
            .unwrap();
        let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        (output, text.concat())
    }
}

/// Not asked for where it is missing: the validator renders what the manifests need by itself.
fn kubectl() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|dir| dir.join("kubectl")).find(|path| path.is_file())
}

#[test]
fn the_manifests_are_taken_by_all_who_read_them() {
    let Some(validator) = Validator::new() else { return };
    let kubectl = kubectl().map(|path| path.display().to_string());
    let renderers = [Some(String::new()), kubectl];
    for renderer in renderers.iter().flatten() {
        let (output, text) = validator.run(&["--kubectl", renderer]);
        println!("{text}");
        assert!(output.status.success(), "{text}");
        assert!(text.contains("14 variants") && text.contains("2 configurations by Envoy"), "{text}");
        assert!(text.contains("6 configurations by daypass"), "{text}");
        assert!(text.contains("15 documents by packages' schemas"), "{text}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Variant, file, what stands there, what is to, and what the validator says of it.
const BREAKS: &[[&str; 5]] = &[
    ["office", "office/office.yaml", "replicas: 2", "replcas: 2", "'replcas' was unexpected"],
    ["office", "office/office.yaml", "targetPort: api", "targetPort: apo", "no port apo"],
    ["office", "office/office.yaml", "Seconds: 30\n", "Seconds: 12\n", "killed before it is done"],
    [
        "office",
        "office/office.yaml",
        "/run/secrets/tls,",
        "/etc/daypass/tls,",
        "nothing can be mounted there",
    ],
    ["office", "office/daypass.yaml", "data_dir", "datadir", "daypass refuses it"],
    [
        "sidecar",
        "components/daypass/patch.yaml",
        "readOnlyRootFilesystem: true",
        "privileged: true",
        "writes to its root",
    ],
    ["sidecar", "components/envoy/envoy.yaml", "failure_mode_allow", "failure_mode", "Envoy refuses it"],
    ["node", "node/node.yaml", "daypass:0.1.0", "daypass:latest", "names no version"],
    [
        "envoy-gateway",
        "envoy-gateway/route.yaml",
        "failOpen: false",
        "failOpen: true",
        "spec.extAuth.failOpen: True",
    ],
    ["contour", "contour/contour.yaml", "protocol: h2", "protocol: h2c", "spec.protocol: 'h2c'"],
    ["gloo", "gloo/gloo.yaml", "statusOnError", "statusOnErr", "no field 'statusOnErr'"],
    ["istio", "istio/istio.yaml", "action: CUSTOM", "action: ALLOW", "spec.action: 'ALLOW'"],
    // By the projects' own schemas: fields that they have not, and values that are no more than text or numbers to kinds.py.
    [
        "istio",
        "istio/istio.yaml",
        "outputClaimToHeaders",
        "outputClaimsToHeaders",
        r#"'"outputClaimsToHeaders"' does not exist in type"#,
    ],
    [
        "envoy-gateway",
        "envoy-gateway/route.yaml",
        "backendRefs: [{ name: orders",
        "backendRef: [{ name: orders",
        r#"'"backendRef"' does not exist in type"#,
    ],
    [
        "envoy-gateway",
        "envoy-gateway/route.yaml",
        "port: 80 }",
        "port: 800000 }",
        "must be <= 65535 (@kubernetes-models/gateway-api",
    ],
    [
        "envoy-gateway",
        "envoy-gateway/route.yaml",
        "timeout: 250ms",
        "timeout: 0.25s",
        "spec.extAuth.timeout: must match pattern",
    ],
    [
        "contour",
        "contour/contour.yaml",
        "responseTimeout: 250ms",
        "responseTimeout: quickly",
        "responseTimeout: must match pattern",
    ],
];

#[test]
fn a_broken_manifest_is_found() {
    let Some(validator) = Validator::new() else { return };
    for [variant, file, from, to, says] in BREAKS {
        let dir = tempfile::tempdir().unwrap();
        copy(&manifests(), dir.path());
        let path = dir.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let root = dir.path().display().to_string();
        let (output, text) = validator.run(&["--root", &root, "--only", variant]);
        assert!(!output.status.success() && text.contains(says), "{file}, {to}: {text}");
    }
}

/// A directory that somebody renamed must not be a test that passes.
#[test]
fn nothing_to_look_at_is_a_failure() {
    let Some(validator) = Validator::new() else { return };
    let (output, text) = validator.run(&["--only", "no-such-variant"]);
    assert!(!output.status.success() && text.contains("there are no variants"), "{text}");
}
