//! Many people with static tokens, for a real server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ring::digest::{SHA256, digest};
use tonic::Request;

/// The token of somebody whom [`write_tokens`] knows.
pub fn token_of(name: &str) -> String {
    format!("token-of-{name}-long-enough-to-be-one")
}

/// The server's hashes: a name, its groups.
pub fn write_tokens(path: &Path, people: &[(&str, &[&str])]) {
    let mut text = String::from("tokens:\n");
    for (name, groups) in people {
        let hash = data_encoding::HEXLOWER.encode(digest(&SHA256, token_of(name).as_bytes()).as_ref());
        let groups: Vec<String> = groups.iter().map(|group| format!("group:{group}")).collect();
        let groups = groups.join(", ");
        text.extend(["- name: ", name, "\n  sha256: ", &hash, "\n  principal: user:", name]);
        text.extend(["\n  groups: [", &groups, "]\n"]);
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A call of somebody's.
pub fn by<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {}", token_of(name)).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// `daypass ...` as somebody, against an API.
pub fn run_as(name: &str, api: &str, args: &[&str]) -> std::process::Output {
    let mut command = super::daypass::binary();
    command.args(args).env("DAYPASS_TOKEN", token_of(name)).env("DAYPASS_API", format!("http://{api}"));
    command.output().unwrap()
}
