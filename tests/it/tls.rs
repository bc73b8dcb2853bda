//! TLS on the grant API, and towards Redis.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::support::daypass::{Daypass, binary, write_file};
use crate::support::redis::Redis;
use crate::support::{free_port, wait_for};

/// An authority, and a certificate for `localhost` and 127.0.0.1 that it signed, as PEM files.
fn certificates(dir: &Path) -> (String, String, String) {
    certificates_for(dir, &["localhost", "127.0.0.1"], 4096)
}

/// The same for other names, valid until that year.
fn certificates_for(dir: &Path, names: &[&str], until: i32) -> (String, String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Another name than the certificates have, or they look as if they had signed themselves.
    params.distinguished_name.push(DnType::CommonName, "authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let certificate = params.signed_by(&key, &authority).unwrap();
    (
        write_file(dir, "ca.pem", &authority.pem()),
        write_file(dir, "cert.pem", &certificate.pem()),
        write_file(dir, "key.pem", &key.serialize_pem()),
    )
}

/// A Redis that speaks TLS on the port, beside the clear one the test talks to.
fn tls_redis(port: &str, (ca, cert, key): &(String, String, String), more: &[&str]) -> Option<Redis> {
    let tls = ["--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca];
    Redis::start(&[&tls[..], more].concat())
}

fn is_ready(daypass: &Daypass) -> Option<()> {
    (daypass.ops("/readyz").0 == 200).then_some(())
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
    let files = certificates(dir.path());
    let port = free_port().to_string();
    let Some(_redis) = tls_redis(&port, &files, &["--tls-auth-clients", "no"]) else { return };
    let url = format!("rediss://localhost:{port}");
    let trusting = Daypass::start_with_env(&[("SSL_CERT_FILE", &files.0)], &["--store", &url]);
    wait_for("the first copy over TLS", || is_ready(&trusting));
    let doubting = Daypass::start(&["--store", &url]);
    wait_for("the refusal in the log", || doubting.log().contains("UnknownIssuer").then_some(()));
    assert_eq!(doubting.ops("/readyz").0, 503);
}

/// Own authority, client certificate, a name that is not the address, an old protocol; and all of it rotated.
#[test]
fn redis_asks_for_a_certificate_and_rotates_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificates_for(dir.path(), &["redis.internal"], 4096);
    let port = free_port().to_string();
    let strict = ["--tls-auth-clients", "yes", "--tls-protocols", "TLSv1.2"];
    let Some(mut redis) = tls_redis(&port, &files, &strict) else { return };
    let url = format!("rediss://127.0.0.1:{port}");
    let with = |tls: &str| {
        let config = write_file(dir.path(), "d.yaml", &format!("redis: {{tls: {{{tls}}}}}\n"));
        Daypass::start(&["--store", &url, "--config", &config])
    };
    let (ca, cert, key) = &files;
    let whole = format!("ca_file: {ca}, cert_file: {cert}, key_file: {key}, server_name: redis.internal");
    let good = with(&whole);
    wait_for("the first copy", || is_ready(&good));
    let nameless = with(&format!("ca_file: {ca}, cert_file: {cert}, key_file: {key}"));
    wait_for("the wrong name", || nameless.ops("/readyz").1.contains("not valid for name").then_some(()));
    let anonymous = with(&format!("ca_file: {ca}, server_name: redis.internal"));
    wait_for("the missing certificate", || {
        (anonymous.log().contains("no session with the store")).then_some(())
    });
    assert_eq!(anonymous.ops("/readyz").0, 503);

    // Another authority signs another certificate, under the same file names; nobody restarts daypass.
    certificates_for(dir.path(), &["redis.internal"], 4096);
    redis.restart();
    let resyncs = good.metric("daypass_replica_resyncs_total");
    wait_for("a copy with the new certificates", || {
        (good.metric("daypass_replica_resyncs_total") > resyncs).then_some(())
    });
    wait_for("readiness", || is_ready(&good));

    certificates_for(dir.path(), &["redis.internal"], 2020);
    redis.restart();
    wait_for("the expired certificate", || {
        good.ops("/readyz").1.contains("certificate expired").then_some(())
    });
    std::fs::remove_file(ca).unwrap();
    wait_for("the missing file", || good.ops("/readyz").1.contains("ca.pem").then_some(()));
}

/// A cluster names its nodes by address, its certificates by name.
#[test]
fn a_cluster_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let files = certificates_for(dir.path(), &["redis.internal"], 4096);
    let (port, bus) = (free_port().to_string(), free_port().to_string());
    let cluster = [
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--tls-cluster",
        "yes",
        "--tls-auth-clients",
        "no",
    ];
    let Some(redis) = tls_redis(&port, &files, &cluster) else { return };
    redis.run::<()>("CLUSTER ADDSLOTSRANGE 0 16383");
    let config = write_file(
        dir.path(),
        "d.yaml",
        &format!("redis: {{tls: {{ca_file: {}, server_name: redis.internal}}}}\n", files.0),
    );
    let url = format!("rediss+cluster://127.0.0.1:{port}");
    let daypass = Daypass::start(&["--store", &url, "--config", &config]);
    wait_for("the first copy", || is_ready(&daypass));
    daypass.grant(&["create", "--subject", "user:alice", "--ttl", "1m"]).unwrap();
}
