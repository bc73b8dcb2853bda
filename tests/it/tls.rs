//! TLS on the grant API, and towards Redis.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::support::daypass::{Daypass, binary, write_file};
use crate::support::redis::Redis;
use crate::support::wait_for;

/// An authority, and a certificate for `localhost` and 127.0.0.1 that it signed, as PEM files.
fn certificates(dir: &Path) -> (String, String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    (
        write_file(dir, "ca.pem", &authority.pem()),
        write_file(dir, "cert.pem", &certificate.pem()),
        write_file(dir, "key.pem", &key.serialize_pem()),
    )
}

#[test]
fn the_api_serves_tls_and_the_cli_checks_it() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (ca, cert, key) = certificates(dir.path());
    let config = write_file(
        dir.path(),
        "d.yaml",
        &format!("api_listen: 0.0.0.0:0\napi:\n  tls: {{cert_file: {cert}, key_file: {key}}}\n"),
    );
    let daypass = Daypass::start_in(&dir, &["--config", &config, "--api-listen", "0.0.0.0:0"]);
    let port = daypass.api.rsplit(':').next().unwrap();
    let list = |api: &str, more: &[&str]| {
        let output = binary()
            .args(["grant", "ls", "--api", api, "--data-dir"])
            .arg(daypass.data_dir())
            .args(more)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let https = format!("https://localhost:{port}");
    assert_eq!(list(&https, &["--ca-file", &ca]), (true, String::new()));
    assert!(!list(&https, &["--ca-file", &cert]).0, "an authority that did not sign it");
    assert!(!list(&format!("http://localhost:{port}"), &[]).0, "no TLS");
    let clear = list("http://192.0.2.1:9292", &[]);
    assert!(!clear.0 && clear.1.contains("in clear"), "{}", clear.1);
}

#[test]
fn redis_is_reached_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, cert, key) = certificates(dir.path());
    let port = crate::support::free_port().to_string();
    let tls =
        ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let Some(_redis) = Redis::start(&[&tls[..], &["--tls-auth-clients", "no"]].concat()) else { return };
    let url = format!("rediss://localhost:{port}");
    let trusting = Daypass::start_with_env(&[("SSL_CERT_FILE", &ca)], &["--store", &url]);
    wait_for("the first copy over TLS", || (trusting.ops("/readyz").0 == 200).then_some(()));
    let doubting = Daypass::start(&["--store", &url]);
    wait_for("the refusal in the log", || doubting.log().contains("UnknownIssuer").then_some(()));
    assert_eq!(doubting.ops("/readyz").0, 503);
}
