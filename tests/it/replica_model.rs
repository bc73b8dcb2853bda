//! The replica's covering set against a plain reimplementation that scans all grants.

use std::num::NonZeroU64;
use std::time::Duration;

use daypass::clock::{BootTime, Now};
use daypass::grant::{Grant, covering};
use daypass::permission::Target;
use daypass::principal::Caller;
use daypass::replica::{Limits, Lookup, Replica, Staleness};
use daypass::store::record::{ReadAt, Ttl, decode};
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const NOW: Now = Now { boot: BootTime::from_millis(1_000_000), wall: Timestamp::UNIX_EPOCH };

/// A grant as its writer thinks of it.
#[derive(Debug, Clone)]
struct Written {
    id: usize,
    subject: &'static str,
    permissions: Vec<WrittenPermission>,
    ttl_ms: u64,
    /// Seconds from now.
    not_before: Option<i64>,
    expires_at: Option<i64>,
    max_uses: Option<u64>,
    cidr: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct WrittenPermission {
    hosts: Option<Vec<&'static str>>,
    methods: Option<Vec<&'static str>>,
    paths: Option<Vec<&'static str>>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(Written),
    Remove(usize),
    Suspect(usize),
    Sweep,
}

#[derive(Debug, Clone)]
struct Asked {
    principals: Vec<&'static str>,
    host: &'static str,
    method: &'static str,
    path: &'static str,
    source: &'static str,
}

const SUBJECTS: [&str; 4] = ["user:alice", "user:bob", "group:sre", "workload:spiffe://td/web"];
const HOSTS: [&str; 4] = ["orders.svc", "orders.prod.svc", "ORDERS.svc:80", "other"];
const HOST_GLOBS: [&str; 5] = ["orders.svc", "orders.*", "orders.**", "*.svc", "Other"];
const PATHS: [&str; 9] =
    ["/", "/db", "/db/", "/db/a", "/db/a/b?x=/../c", "/admin", "/db/../admin", "/%64b/a", "/db//a"];
const PATH_GLOBS: [&str; 6] = ["/db/**", "/db/*", "/db", "/**", "**/a", "/*/a*"];

fn permission() -> impl Strategy<Value = WrittenPermission> {
    let list = |from: &'static [&'static str]| option::of(vec(select(from), 1..3));
    (list(&HOST_GLOBS), list(&["GET", "post", "*"]), list(&PATH_GLOBS))
        .prop_filter("an empty permission is refused", |(hosts, methods, paths)| {
            hosts.is_some() || methods.is_some() || paths.is_some()
        })
        .prop_map(|(hosts, methods, paths)| WrittenPermission { hosts, methods, paths })
}

fn written() -> impl Strategy<Value = Written> {
    let times = (select(vec![0, 1, 50, 1_000, 60_000]), option::of(-2..3_i64), option::of(-2..100_i64));
    let conditions = (option::of(1..5_u64), option::of(select(vec!["10.0.0.0/8", "192.0.2.7", "::/0"])));
    (0..12_usize, select(&SUBJECTS), vec(permission(), 0..3), times, conditions).prop_map(
        |(id, subject, permissions, (ttl_ms, not_before, expires_at), (max_uses, cidr))| Written {
            id,
            subject,
            permissions,
            ttl_ms,
            not_before,
            expires_at,
            max_uses,
            cidr,
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => written().prop_map(Change::Write),
        2 => (0..12_usize).prop_map(Change::Remove),
        1 => (0..12_usize).prop_map(Change::Suspect),
        1 => Just(Change::Sweep),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        vec(select(&SUBJECTS), 0..3),
        select(&HOSTS),
        select(vec!["GET", "POST", "get"]),
        select(&PATHS),
        select(vec!["10.1.1.1", "192.0.2.7", "::1"]),
    )
        .prop_map(|(mut principals, host, method, path, source)| {
            principals.sort_unstable();
            principals.dedup();
            Asked { principals, host, method, path, source }
        })
}

impl Written {
    fn grant(&self) -> Grant {
        let permission = |p: &WrittenPermission| {
            let mut lists = serde_json::Map::new();
            for (name, list) in [("hosts", &p.hosts), ("methods", &p.methods), ("paths", &p.paths)] {
                lists.extend(list.as_ref().map(|list| (name.to_owned(), list.clone().into())));
            }
            serde_json::Value::Object(lists)
        };
        let mut value = serde_json::json!({"v": 1, "subject": self.subject});
        value["permissions"] = self.permissions.iter().map(permission).collect();
        let moment = |seconds: i64| Timestamp::from_second(seconds).unwrap().to_string().into();
        if let Some(seconds) = self.not_before {
            value["not_before"] = moment(seconds);
        }
        if let Some(seconds) = self.expires_at {
            value["expires_at"] = moment(seconds);
        }
        if let Some(uses) = self.max_uses {
            value["max_uses"] = uses.into();
        }
        if let Some(cidr) = self.cidr {
            value["conditions"] = serde_json::json!({"source_cidrs": [cidr]});
        }
        let read_at = ReadAt { sent: NOW, ttl: Ttl::Left(Duration::from_millis(self.ttl_ms)) };
        decode(&format!("g-{}", self.id), value.to_string().as_bytes(), read_at, Duration::from_secs(86_400))
            .unwrap()
    }

    /// The definition, in the words of the contract and with none of the code under test.
    fn covers(&self, asked: &Asked) -> bool {
        let is_active = self.ttl_ms > 0
            && self.not_before.is_none_or(|seconds| seconds <= 0)
            && self.expires_at.is_none_or(|seconds| seconds > 0);
        let is_ambiguous = asked.path.contains("/../admin") || asked.path == "/db//a";
        let path = asked.path.split('?').next().unwrap().replace("%64", "d");
        let host = asked.host.to_lowercase().replace(":80", "");
        let from_source = match self.cidr {
            None => true,
            Some("10.0.0.0/8") => asked.source == "10.1.1.1",
            Some("192.0.2.7") => asked.source == "192.0.2.7",
            Some(_) => asked.source == "::1",
        };
        let given = |list: &Option<Vec<&str>>, value: &str, separator: &str, fold: fn(&str) -> String| {
            list.as_ref()
                .is_none_or(|list| list.iter().any(|glob| glob_matches(&fold(glob), value, separator)))
        };
        let permits = |p: &WrittenPermission| {
            given(&p.hosts, &host, "\\.", str::to_lowercase)
                && given(&p.methods, &asked.method.to_uppercase(), "/", str::to_uppercase)
                && given(&p.paths, &path, "/", str::to_owned)
        };
        asked.principals.contains(&self.subject)
            && is_active
            && !is_ambiguous
            && from_source
            && self.permissions.iter().any(permits)
    }
}

fn glob_matches(glob: &str, value: &str, separator: &str) -> bool {
    let expression = regex::escape(glob).replace("\\*\\*", ".*").replace("\\*", &format!("[^{separator}]*"));
    regex::Regex::new(&format!("^{expression}$")).unwrap().is_match(value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]
    #[test]
    fn covering_grants_are_those_a_scan_finds(changes in vec(change(), 0..30), requests in vec(asked(), 1..6)) {
        let replica = Replica::new(Staleness::Local, Limits { grants: 1_000, grants_per_principal: 1_000 });
        let mut model: std::collections::BTreeMap<usize, (Written, bool)> = std::collections::BTreeMap::new();
        for change in changes {
            match change {
                Change::Write(written) => {
                    replica.insert(written.grant()).unwrap();
                    model.insert(written.id, (written, false));
                }
                Change::Remove(id) => {
                    replica.remove(&format!("g-{id}"));
                    model.remove(&id);
                }
                Change::Suspect(id) => {
                    replica.suspect(&format!("g-{id}"));
                    if let Some((_, is_suspect)) = model.get_mut(&id) {
                        *is_suspect = true;
                    }
                }
                Change::Sweep => {
                    replica.sweep(NOW);
                    model.retain(|_, (written, _)| written.ttl_ms > 0 && written.expires_at.is_none_or(|s| s > 0));
                }
            }
        }
        for asked in requests {
            let caller = Caller::new(asked.principals.iter().map(|name| name.parse().unwrap()).collect());
            let target = Target::http(asked.host, asked.method, asked.path, None).with_source(asked.source.parse().ok());
            let is_unsettled = model.values().any(|(written, is_suspect)| *is_suspect && asked.principals.contains(&written.subject));
            let active = match replica.lookup(&caller, NOW) {
                Lookup::Unsettled => {
                    prop_assert!(is_unsettled, "{:?}", asked);
                    continue;
                }
                Lookup::Settled(active) => active,
                Lookup::TooMany => unreachable!("30 changes make no 1,000 grants"),
            };
            prop_assert!(!is_unsettled, "{:?}", asked);
            let found: Vec<String> = covering(&active, &target).iter().map(|grant| grant.id.to_string()).collect();
            let mut expected: Vec<&Written> = model.values().map(|(written, _)| written).filter(|w| w.covers(&asked)).collect();
            // Unlimited before limited, later end before earlier, and then by id.
            let end_ms = |w: &Written| w.expires_at.map_or(w.ttl_ms, |s| w.ttl_ms.min(u64::try_from(s * 1000).unwrap()));
            expected.sort_by_key(|w| (w.max_uses.and_then(NonZeroU64::new).is_some(), std::cmp::Reverse(end_ms(w)), format!("g-{}", w.id)));
            let expected: Vec<String> = expected.iter().map(|w| format!("g-{}", w.id)).collect();
            prop_assert_eq!(found, expected, "{:?}", asked);
        }
    }
}
