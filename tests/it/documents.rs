//! What the documents show is what the code takes.

use std::path::Path;
use std::time::Duration;

use daypass::clock::Clock;
use daypass::config::{Config, ServeArgs};
use daypass::store::journal::Index;
use daypass::store::record::{ReadAt, Ttl, decode, decode_lock};

use crate::journal::everything;
use crate::support::daypass::{Daypass, run, write_file};
use crate::support::journal::{Opened, make};
use crate::support::redis::{Redis, Sentinel};
use crate::support::request::{ALICES_GRANT, alice, reason};
use crate::support::{PATIENCE, tool, wait_for};

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// The fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_configuration_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let example = blocks(&document("configuration.md"), "yaml").remove(0);
    let path = write_file(dir.path(), "daypass.yaml", &example);
    let args = ServeArgs { config: Some(path.into()), ..ServeArgs::default() };
    let config = Config::load_with(&args, &|_| None);
    assert!(config.is_ok(), "{}", config.unwrap_err());
}

#[test]
fn the_grant_is_one() {
    let example = blocks(&document("grant-key.md"), "json").remove(0);
    let read_at = ReadAt { sent: Clock::System.now(), ttl: Ttl::Left(Duration::from_secs(60)) };
    assert!(decode("g", example.as_bytes(), read_at, Duration::from_secs(60)).is_ok());
}

#[test]
fn the_lock_is_one() {
    let example = blocks(&document("grant-key.md"), "json").remove(1);
    let lock = decode_lock("l", example.as_bytes(), ReadAt { sent: Clock::System.now(), ttl: Ttl::None });
    assert_eq!(lock.unwrap().expires_at(), None);
}

/// The shipped `redis.conf` and users, on real servers, with a sentinel of the shipped configuration that replaces the
/// master; daypass as the user of the grant API throughout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_redis_configuration_works_with_sentinel() {
    let shipped = |name: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/redis").join(name))
            .unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let acl = write_file(dir.path(), "users.acl", &shipped("users.acl"));
    let text = shipped("redis.conf").replace("aclfile /etc/redis/users.acl", &format!("aclfile {acl}"));
    // A file each, because Sentinel has them rewritten.
    let start = |name: &str, more: &[&str]| {
        let conf = write_file(dir.path(), name, &text);
        let login = ["--masteruser", "replica", "--masterauth", "change-me-replica"];
        Redis::start_configured(&conf, &[&login[..], more].concat(), ("api", "change-me-api"))
    };
    let Some(mut master) = start("master.conf", &[]) else { return };
    let Some(_replica) = start("replica.conf", &["--replicaof", "127.0.0.1", &master.port.to_string()])
    else {
        return;
    };
    let sentinel = shipped("sentinel.conf")
        .replace("monitor jit redis 6379 2", &format!("monitor jit 127.0.0.1 {} 1", master.port))
        .replace("down-after-milliseconds jit 3000", "down-after-milliseconds jit 1000")
        .replace("failover-timeout jit 10000", "failover-timeout jit 3000");
    let Some(sentinel) = Sentinel::start_with(&sentinel, Some("change-me-sentinels")) else { return };
    let password = write_file(dir.path(), "password", "change-me-sentinels\n");
    let settings = format!("redis: {{require_replicas: 1, sentinel_password_file: {password}}}\n");
    let config = write_file(dir.path(), "d.yaml", &settings);
    let url = format!("redis+sentinel://api:change-me-api@127.0.0.1:{}/jit", sentinel.port);
    let daypass = Daypass::start(&["--store", &url, "--config", &config]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    assert!(!daypass.log().contains("not as it should be"), "{}", daypass.log());
    daypass
        .grant(&["create", "--id", "g", "--subject", "user:alice", "--path", "/db/**", "--ttl", "1h"])
        .unwrap();
    assert_eq!(daypass.grant(&["revoke", "g"]).unwrap(), "revoked g\n", "the replica has it");
    master.kill();
    wait_for("the end of freshness", || (daypass.ops("/readyz").0 == 503).then_some(()));
    // The next master has no replica, and one is required: not believed until the first is back.
    wait_for("the lack of a replica", || {
        daypass.ops("/readyz").1.contains("0 of 1 required replicas").then_some(())
    });
    // Sentinel makes it a replica after some eight seconds of its own.
    master.revive();
    wait_for("the old master to follow", || (master.info("role") == "slave").then_some(()));
    wait_for("readiness", || (daypass.ops("/readyz").0 == 200).then_some(()));
}

/// A user with the `nth` list of permissions in the document, and the URL to be it.
pub fn as_user(redis: &Redis, name: &str, nth: usize) -> String {
    let text = document("grant-key.md");
    let rules = text.lines().filter(|line| line.trim_start().starts_with("on >password")).nth(nth).unwrap();
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg(name).arg(rules.split_whitespace().collect::<Vec<_>>());
    redis.query::<()>(&command);
    format!("redis://{name}:password@127.0.0.1:{}", redis.port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_acl_of_the_grant_api_is_enough() {
    let Some(redis) = Redis::start(&[]) else { return };
    let url = as_user(&redis, "api", 1);
    let daypass = Daypass::start(&["--store", &url]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    daypass.grant(&["create", "--id", "g1", "--subject", "user:alice", "--ttl", "1m"]).unwrap();
    assert!(daypass.grant(&["ls"]).unwrap().contains("g1"));
    daypass.grant(&["revoke", "g1"]).unwrap();
    assert!(redis.events().last().unwrap().contains("grant.revoked"));
    // And for everything that the journal does.
    let Opened { store, .. } = Opened::at(&url);
    let before = redis.events().len() as u64;
    for _ in 0..2 {
        make(&store, everything()).await.unwrap();
    }
    assert_eq!(store.scan(&Index::Pending, None, 9).await.unwrap().len(), 1);
    assert_eq!(store.events(before, 9).await.unwrap().len(), 2);
    assert!(store.due(9).await.unwrap().next.is_some());
    tokio::time::timeout(PATIENCE, store.moved(before)).await.unwrap();
}

/// A sidecar lives on the permissions that the document lists, and cannot give access with them.
#[tokio::test]
async fn the_acl_of_sidecars_is_enough_and_no_more() {
    let Some(redis) = Redis::start(&[]) else { return };
    let url = as_user(&redis, "sidecar", 0);
    let daypass = Daypass::start(&["--store", &url]);
    wait_for("the first copy", || (daypass.ops("/readyz").0 == 200).then_some(()));
    let limited = ALICES_GRANT.replace("\"v\":1", "\"v\":1,\"max_uses\":1");
    let mut set = redis::cmd("SET");
    set.arg("{jit}:grant:g").arg(limited).arg("PX").arg(60_000);
    set.query::<()>(&mut redis.connect()).unwrap();
    let mut client = daypass.client().await;
    let mut reasons = Vec::new();
    while reasons.last().is_none_or(|last| last != "uses_exhausted") && reasons.len() < 10_000 {
        reasons.push(reason(&client.check(alice()).await));
    }
    assert_eq!(reasons.iter().filter(|reason| *reason == "grant").count(), 1, "{:?}", reasons.last());
    let denied = daypass.grant(&["create", "--subject", "user:mallory", "--ttl", "1m"]).unwrap_err();
    assert!(denied.contains("refuses this user"), "{denied}");
}

/// Every recipe is a file with tests that pass and reach all of it.
#[test]
fn recipes_pass_their_tests() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/recipes");
    let document = document("policies.md");
    let mut recipes = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name.ends_with("_test") {
            continue;
        }
        recipes += 1;
        let test = dir.join(format!("{name}_test.rego"));
        let file = path.display().to_string();
        let output = run(&["policy", "test", &file, &test.display().to_string(), "--json", "--coverage"]);
        let results: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            output.status.success() && results["results"].as_array().unwrap().len() >= 3,
            "{name}: {results:#}"
        );
        let files = results["coverage"].as_array().unwrap();
        let own = files.iter().find(|found| found["file"] == file.as_str()).unwrap();
        assert_eq!(own["not_covered"], serde_json::json!([]), "{name}");
        assert!(run(&["policy", "check", "--strict", &file]).status.success(), "{name}");
        assert!(
            document.contains(&format!("recipes/{name}.rego")),
            "docs/policies.md does not name {name}.rego"
        );
    }
    assert!(recipes >= 6);
}

/// The README's story, with the command line and with curl, as it is printed there.
#[test]
fn the_story_of_the_readme_goes_as_printed() {
    let (Some(_), Some(_)) = (tool("curl"), tool("jq")) else { return };
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = blocks(&readme, "sh");
    let story: String = blocks.iter().flat_map(|block| [block.as_str(), "\n"]).collect();
    assert!(story.contains("request approve") && story.contains("curl"), "{story}");
    let entitlements = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/entitlements.yaml");
    let daypass = Daypass::start(&["--policy", entitlements.to_str().unwrap()]);
    let serve = "target/release/daypass serve --policy policies/entitlements.yaml &\n";
    assert!(story.contains(serve));
    let story = story.replace(serve, "").replace("target/release/daypass", env!("CARGO_BIN_EXE_daypass"));
    let story = story.replace("http://127.0.0.1:9292", &format!("http://{}", daypass.api));
    let output = std::process::Command::new("bash")
        .args(["-euo", "pipefail", "-c", &story])
        .env("DAYPASS_API", format!("http://{}", daypass.api))
        .env("DAYPASS_DATA_DIR", daypass.data_dir())
        .env("XDG_CONFIG_HOME", daypass.dir.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    // Both stories were allowed in between, and gave back what they had.
    assert!(out.contains("allowed") && out.contains(r#""allowed":true"#), "{out}");
    let ended = daypass.grant(&["ls", "--all", "--json"]).unwrap();
    assert_eq!(ended.matches("RELINQUISHED").count(), 2, "{ended}");
}
