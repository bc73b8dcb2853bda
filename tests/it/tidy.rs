//! The rules of the tree that a compiler does not know: who may import whom, and how a file opens.

use std::fs;
use std::path::{Path, PathBuf};

fn sources() -> Vec<(String, String)> {
    fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let name = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The part of the file that ships: tests may import what they like.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

const DOMAIN: [&str; 8] =
    ["clock", "decision", "entitlement", "grant", "lock", "permission", "principal", "standing"];

/// Modules of this crate that each may import, beside itself. Whoever is missing here may import everything.
fn allowed(module: &str) -> Option<Vec<&'static str>> {
    let with = |more: &[&'static str]| Some([&DOMAIN[..], more].concat());
    match module {
        "clock" | "principal" | "permission" | "decision" | "standing" | "doctor" | "fetch" | "jws"
        | "trace" => Some(vec![]),
        "grant" => Some(vec!["clock", "permission", "principal"]),
        "lock" => Some(vec!["clock", "grant", "principal"]),
        "entitlement" => Some(vec!["permission", "principal"]),
        "replica" | "metrics" => with(&[]),
        "policy" => with(&["jws", "replica"]),
        "audit" => with(&["metrics"]),
        "bundle" => with(&["fetch", "policy"]),
        "desk" => with(&["policy", "replica", "store"]),
        "store" => with(&["metrics", "replica"]),
        "webhook" => with(&["desk", "fetch", "metrics", "store"]),
        "ops" => with(&["bundle", "metrics", "replica"]),
        "authz" => with(&["audit", "metrics", "policy", "replica", "store", "trace"]),
        "api" => with(&["audit", "desk", "fetch", "jws", "metrics", "store"]),
        _ => None,
    }
}

#[test]
fn imports_go_one_way() {
    let mut breaches = Vec::new();
    for (file, text) in sources() {
        let Some(allowed) = allowed(module(&file)) else { continue };
        for line in shipped(&text).lines() {
            for rest in line.split("crate::").skip(1) {
                let target = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                if target != module(&file) && !target.is_empty() && !allowed.contains(&target) {
                    breaches.push(format!("{file}: {}", line.trim()));
                }
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

/// Each library behind the modules that hide it.
#[test]
fn libraries_stay_where_they_are_hidden() {
    let homes: [(&str, &[&str]); 20] = [
        ("envoy_types", &["authz"]),
        ("regorus", &["policy"]),
        ("opentelemetry", &["trace.rs"]),
        ("redb", &["store/embedded", "store/file.rs", "store/ledger.rs"]),
        (
            "rustls",
            &["fetch", "store/redis/connect.rs", "server.rs", "server/api_listener.rs", "server/tls.rs"],
        ),
        (
            "ring::digest",
            &[
                "api/gate",
                "api/tokens.rs",
                "authz/uses.rs",
                "bundle",
                "desk/requests.rs",
                "entitlement.rs",
                "store/journal.rs",
                "policy/builtins",
                "policy/source.rs",
            ],
        ),
        ("ring::signature", &["bundle/keys.rs", "jws", "policy/builtins"]),
        ("hyper", &["api/rest/stream.rs", "fetch.rs", "server/api_call.rs", "server/api_listener.rs"]),
        ("prost_reflect", &["api/rest"]),
        ("percent_encoding", &["api/rest"]),
        ("flate2", &["bundle"]),
        ("tar::", &["bundle"]),
        ("url::Url", &["api/gate", "bundle", "cli/doctor.rs", "config", "fetch.rs", "webhook/config.rs"]),
        ("redis::", &["store/redis", "store.rs"]),
        ("prometheus", &["metrics.rs", "server.rs"]),
        (
            "axum",
            &[
                "api/rest",
                "ops.rs",
                "server.rs",
                "server/api_call.rs",
                "server/api_listener.rs",
                "server/office.rs",
            ],
        ),
        ("clap", &["cli", "config/args.rs", "main.rs"]),
        ("saphyr", &["api/tokens.rs", "config", "doctor/read.rs", "policy/builtins/yaml"]),
        (
            "tonic",
            &["api", "authz.rs", "authz/guard.rs", "authz/watch", "cli/client.rs", "server", "trace.rs"],
        ),
        (
            "serde_json",
            &[
                "api",
                "audit.rs",
                "authz/json.rs",
                "bundle",
                "cli",
                "config",
                "desk",
                "doctor/read.rs",
                "doctor/report.rs",
                "entitlement",
                "jws",
                "ops.rs",
                "policy",
                "server",
                "store",
                "webhook",
            ],
        ),
    ];
    let mut breaches = Vec::new();
    for (file, text) in sources() {
        for (library, home) in homes {
            if home.iter().any(|place| file.starts_with(place)) {
                continue;
            }
            let lines = shipped(&text).lines().filter(|line| !line.trim_start().starts_with("//"));
            breaches.extend(
                lines.filter(|line| line.contains(library)).map(|line| format!("{file}: {}", line.trim())),
            );
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

/// An empty CheckResponse is an allow to Envoy, so there is one place that builds them.
#[test]
fn only_one_file_builds_responses() {
    for (file, text) in sources() {
        let builds = [
            "CheckResponse {",
            "CheckResponse::default",
            "CheckResponse::new",
            "CheckResponse::with_status",
            "..Default",
        ];
        let home = file == "authz/response.rs";
        for line in shipped(&text).lines().filter(|line| !line.contains("-> CheckResponse {")) {
            assert!(home || !builds.iter().any(|way| line.contains(way)), "{file}: {line}");
        }
        if home {
            let leaves_out = ["Response::default", "..Default", "..CheckResponse"];
            assert!(
                !leaves_out.iter().any(|way| shipped(&text).contains(way)),
                "a status left out is an allow"
            );
        }
    }
}

#[test]
fn files_open_with_what_they_are_for_and_stay_readable() {
    const MAX_LINES: usize = 500;
    let mut complaints = Vec::new();
    for (file, text) in sources() {
        // A file of tests alone is opened by the file it belongs to.
        if file.ends_with("tests.rs") {
            continue;
        }
        if !text.starts_with("//!") {
            complaints.push(format!("{file} does not open with //!"));
        }
        let lines = shipped(&text).lines().count();
        if lines > MAX_LINES {
            complaints.push(format!("{file} has {lines} lines before its tests"));
        }
        if shipped(&text).contains(".unwrap()") {
            complaints.push(format!("{file} unwraps outside tests"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// What `make sabotage` takes out is still where the patches look for it.
#[test]
fn the_sabotage_still_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join(".git").exists() {
        eprintln!("skipped: not a git checkout, and `git apply` looks for one");
        return;
    }
    let patches: Vec<PathBuf> = fs::read_dir(root.join("tests/sabotage"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    assert_eq!(patches.len(), 2);
    for patch in patches {
        let check = std::process::Command::new("git")
            .current_dir(root)
            .args(["apply", "--check"])
            .arg(&patch)
            .output();
        let output = check.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
