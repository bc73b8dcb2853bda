//! daypass' own: what the permissions of grants and entitlements would cover.

use std::collections::HashSet;
use std::net::IpAddr;

use regorus::Value;
use regorus::value::Object;

use super::values::element;
use super::{Builtin, Fault, Outcome, binary, kind_of, ternary, text};
use crate::permission::{Cidr, Permission, PermissionLists, Target};

pub const BUILTINS: [Builtin; 2] = [binary("daypass.covers", covers), ternary("daypass.askable", askable)];

/// Permissions of one call. A grant has 64 KiB, which are no more.
const MAX_PERMISSIONS: usize = 8192;
/// Requests of one call: one that may be read in two ways is two.
const MAX_REQUESTS: usize = 16;
/// Patterns of one list.
const MAX_PATTERNS: usize = 8192;
/// Names that `askable` has: as many as a denial tells of, since a person picks one.
const MAX_OFFERS: usize = 5;
/// Entitlements, and names of who is eligible for them, that one call of `askable` looks at: some milliseconds. A built-in
/// cannot be interrupted, and a denial has 50 ms.
const MAX_LOOKS: usize = 20_000;
/// Patterns and ranges that one call of `askable` holds against requests.
const MAX_MATCHES: usize = 1000;
/// Steps that the stars of these patterns may take: bytes of a pattern behind its first star times bytes of the request.
const MAX_STEPS: usize = 300_000;

/// `daypass.covers(permissions, request)`: whether one of them, as in a grant's key, covers `{host, method, path}`, with
/// `grpc_method` for a gRPC request.
fn covers(permissions: &Value, request: &Value) -> Outcome {
    let Value::Array(items) = permissions else { return Err(Fault::operand(1, "array", permissions)) };
    let Value::Object(request_members) = request else { return Err(Fault::operand(2, "object", request)) };
    if items.len() > MAX_PERMISSIONS {
        return Err(Fault::failed(format!("at most {MAX_PERMISSIONS} permissions are compared")));
    }
    let asked = Asked::read(request_members)?;
    let target = asked.target();
    let mut is_covered = false;
    // All are read, so that a mistake in one is told whatever the request.
    for item in items.iter() {
        let Value::Object(members) = item else { return Err(element(1, permissions, "object", item)) };
        let permission =
            Permission::new(&lists(members)?).map_err(|error| Fault::failed(error.to_string()))?;
        is_covered |= target.as_ref().is_some_and(|target| permission.matches(target));
    }
    Ok(Value::Bool(is_covered))
}

/// `daypass.askable(entitlements, principals, requests)`: names of the first that one of the principals may ask for and
/// that would cover one of the requests. For denials: a loop in policy would take a denial's time limit for some thousands
/// of entitlements. Those that are none are passed over; they were refused when they were read. It is bounded: what it
/// does not come to is not offered, which denies nobody anything.
fn askable(entitlements: &Value, principals: &Value, requests: &Value) -> Outcome {
    let Value::Object(entitlements) = entitlements else {
        return Err(Fault::operand(1, "object", entitlements));
    };
    let Value::Array(principals) = principals else { return Err(Fault::operand(2, "array", principals)) };
    let Value::Array(items) = requests else { return Err(Fault::operand(3, "array", requests)) };
    if items.len() > MAX_REQUESTS {
        return Err(Fault::failed(format!("at most {MAX_REQUESTS} requests are compared")));
    }
    let mut targets = Vec::new();
    for item in items.iter() {
        let Value::Object(members) = item else { return Err(element(3, requests, "object", item)) };
        targets.extend(Asked::read(members)?.target());
    }
    if targets.is_empty() || principals.is_empty() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    let principals: HashSet<&str> = principals.iter().filter_map(as_text).collect();
    let mut eligible = eligible(entitlements, &principals);
    eligible.sort_unstable_by_key(|(name, _)| *name);
    let mut work = Work { matches: MAX_MATCHES, steps: MAX_STEPS };
    let covering = eligible.into_iter().filter(|(_, members)| covers_any(members, &targets, &mut work));
    let names = covering.take(MAX_OFFERS).map(|(name, _)| Value::from(name));
    Ok(Value::from(names.collect::<Vec<_>>()))
}

/// Those that one of the principals may ask for.
fn eligible<'e>(entitlements: &'e Object, principals: &HashSet<&str>) -> Vec<(&'e str, &'e Object)> {
    let key = Value::from("eligible");
    let mut looks = MAX_LOOKS;
    let mut found = Vec::new();
    for (name, entitlement) in entitlements {
        if looks == 0 {
            break;
        }
        looks -= 1;
        let (Some(name), Value::Object(members)) = (as_text(name), entitlement) else { continue };
        let Some(Value::Array(names)) = members.get(&key) else { continue };
        let mut names = names.iter().take(looks).inspect(|_| looks -= 1).filter_map(as_text);
        if names.any(|who| principals.contains(who)) {
            found.push((name, &**members));
        }
    }
    found
}

/// What one call may still compare.
struct Work {
    matches: usize,
    steps: usize,
}

impl Work {
    /// False if it is more than what is left, and then nothing is.
    fn take(&mut self, matches: usize, steps: usize) -> bool {
        let left = self.matches.checked_sub(matches).zip(self.steps.checked_sub(steps));
        (self.matches, self.steps) = left.unwrap_or_default();
        left.is_some()
    }

    fn is_over(&self) -> bool {
        self.matches == 0
    }
}

fn covers_any(members: &Object, targets: &[Target<'_>], work: &mut Work) -> bool {
    let Some(Value::Array(permissions)) = members.get(&Value::from("permissions")) else { return false };
    let inside: Vec<_> = targets.iter().filter(|target| is_inside(members, target, work)).collect();
    !inside.is_empty()
        && permissions.iter().take(MAX_MATCHES).any(|item| {
            let Value::Object(members) = item else { return false };
            // What it costs to know the cost is bounded too.
            let is_left = inside.iter().all(|target| {
                !work.is_over() && {
                    let (patterns, steps) = cost(members, target);
                    work.take(patterns, steps)
                }
            });
            is_left
                && lists(members)
                    .ok()
                    .and_then(|lists| Permission::new(&lists).ok())
                    .is_some_and(|permission| inside.iter().any(|target| permission.matches(target)))
        })
}

/// Whether the request comes from where the entitlement's grants are of use.
fn is_inside(members: &Object, target: &Target<'_>, work: &mut Work) -> bool {
    let ranges = match members.get(&Value::from("conditions")) {
        None => return true,
        Some(Value::Object(conditions)) => match conditions.get(&Value::from("source_cidrs")) {
            None => return true,
            Some(Value::Array(ranges)) => ranges,
            Some(_) => return false,
        },
        Some(_) => return false,
    };
    let Some(source) = target.source().filter(|_| work.take(ranges.len(), 0)) else { return false };
    let mut ranges = ranges.iter().filter_map(as_text).filter_map(|text| text.parse::<Cidr>().ok());
    ranges.any(|range| range.contains(source))
}

/// Patterns of a permission, and the steps that comparing them with the request takes at most.
fn cost(permission: &Object, target: &Target<'_>) -> (usize, usize) {
    let mut total = (1, 0);
    for (name, list) in permission {
        let (Some(name), Value::Array(patterns)) = (as_text(name), list) else { continue };
        let text = match name {
            "hosts" => target.host(),
            "methods" => target.method(),
            "paths" => target.path(),
            _ => target.grpc_method(),
        };
        let text = text.unwrap_or_default();
        let steps = |pattern: &str| match pattern.split_once('*') {
            // Hosts and methods are compared in another spelling.
            Some((head, _)) if name == "paths" && !text.starts_with(head) => 0,
            Some((_, tail)) => (tail.len() + 1) * (text.len() + 1),
            None => 0,
        };
        total.0 += patterns.len();
        // More than any work allows is as good as all of it.
        total.1 += patterns.iter().take(MAX_MATCHES + 1).filter_map(as_text).map(steps).sum::<usize>();
    }
    total
}

fn as_text(value: &Value) -> Option<&str> {
    if let Value::String(text) = value { Some(text) } else { None }
}

/// The request, as far as it is told.
struct Asked<'a> {
    host: Option<&'a str>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    grpc_method: Option<&'a str>,
    /// Where it comes from. What is no address is one that nobody knows.
    source: Option<IpAddr>,
}

impl<'a> Asked<'a> {
    fn read(members: &'a Object) -> Result<Self, Fault> {
        for name in members.keys() {
            let is_known = matches!(name, Value::String(name) if matches!(&**name, "host" | "method" | "path" | "grpc_method" | "source"));
            if !is_known {
                return Err(Fault::failed("a request has host, method, path, grpc_method and source"));
            }
        }
        let get = |name: &str| members.get(&Value::from(name)).map(|value| text(2, value)).transpose();
        Ok(Self {
            host: get("host")?,
            method: get("method")?,
            path: get("path")?,
            grpc_method: get("grpc_method")?,
            source: get("source")?.and_then(|address| address.parse().ok()),
        })
    }

    /// None if it contradicts itself, which nothing covers.
    fn target(&self) -> Option<Target<'a>> {
        // What a check would see of a gRPC request.
        let content_type = self.grpc_method.map(|_| "application/grpc");
        let target = match (self.method, self.path) {
            (None, None) if self.grpc_method.is_none() => Target::tcp(self.host),
            (method, path) => Target::http(
                self.host.unwrap_or_default(),
                method.unwrap_or_default(),
                path.unwrap_or_default(),
                content_type,
            ),
        };
        let wanted = self.grpc_method.map(|method| method.trim_start_matches('/'));
        (wanted == target.grpc_method()).then(|| target.with_source(self.source))
    }
}

fn lists(members: &Object) -> Result<PermissionLists, Fault> {
    let mut found = PermissionLists::default();
    for (name, value) in members {
        let list = match name {
            Value::String(name) => match &**name {
                "hosts" => &mut found.hosts,
                "methods" => &mut found.methods,
                "paths" => &mut found.paths,
                "grpc_methods" => &mut found.grpc_methods,
                _ => return Err(unknown()),
            },
            _ => return Err(unknown()),
        };
        let Value::Array(items) = value else {
            return Err(Fault::Type(format!(
                "operand 1 must have lists of strings but got {}",
                kind_of(value)
            )));
        };
        if items.len() > MAX_PATTERNS {
            return Err(Fault::failed(format!("at most {MAX_PATTERNS} patterns are compared")));
        }
        let pattern = |item: &Value| match item {
            Value::String(text) => Ok(text.to_string()),
            other => Err(element(1, value, "string", other)),
        };
        *list = Some(items.iter().map(pattern).collect::<Result<_, _>>()?);
    }
    Ok(found)
}

fn unknown() -> Fault {
    Fault::failed("a permission has hosts, methods, paths and grpc_methods")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(permissions: &str, request: &str) -> Outcome {
        let value = |text: &str| Value::from_json_str(text).unwrap();
        covers(&value(permissions), &value(request))
    }

    #[test]
    fn as_a_check_would() {
        let db = r#"[{"hosts": ["*.svc"], "methods": ["GET"]}, {"paths": ["/db/**"]}]"#;
        let grpc = r#"[{"grpc_methods": ["a.B/*"]}]"#;
        for (permissions, request, wanted) in [
            (db, r#"{"host": "A.svc:80", "method": "get", "path": "/x?y"}"#, true),
            (db, r#"{"host": "b", "method": "POST", "path": "/db/x"}"#, true),
            (db, r#"{"host": "b", "method": "POST", "path": "/dbx"}"#, false),
            (db, r#"{"host": "a.svc", "method": "GET", "path": "/a/../b"}"#, false),
            (db, r#"{"host": "a.svc"}"#, false),
            (db, "{}", false),
            (r#"[{"hosts": ["a"]}]"#, r#"{"host": "a"}"#, true),
            ("[]", r#"{"host": "a", "method": "GET", "path": "/"}"#, false),
            (grpc, r#"{"host": "a", "method": "POST", "path": "/a.B/C", "grpc_method": "a.B/C"}"#, true),
            (grpc, r#"{"host": "a", "method": "POST", "path": "/a.B/C"}"#, false),
            (grpc, r#"{"host": "a", "method": "POST", "path": "/x.B/C", "grpc_method": "a.B/C"}"#, false),
            (grpc, r#"{"host": "a", "method": "GET", "path": "/a.B/C", "grpc_method": "a.B/C"}"#, false),
        ] {
            assert_eq!(covered(permissions, request), Ok(Value::Bool(wanted)), "{permissions} {request}");
        }
    }

    #[test]
    fn what_may_be_asked_for() {
        let value = |text: &str| Value::from_json_str(text).unwrap();
        let entitlements = value(
            r#"{"b": {"eligible": ["group:x"], "permissions": [{"hosts": ["a"]}]},
                "a": {"eligible": ["user:y", "user:z"], "permissions": [{"paths": ["/q"]}, {"paths": ["/p"]}]},
                "c": {"eligible": ["group:no"], "permissions": [{"hosts": ["a"]}]},
                "d": {"eligible": ["group:x"], "permissions": [{"hosts": ["b"]}]},
                "e": {"eligible": "group:x", "permissions": [{"hosts": ["a"]}]},
                "f": {"eligible": ["group:x", 1], "permissions": [{"hosts": []}, 1]},
                "g": {"eligible": ["group:x"]}, "h": 1}"#,
        );
        let found =
            |principals: &str, requests: &str| askable(&entitlements, &value(principals), &value(requests));
        let request = r#"[{"host": "a", "method": "GET", "path": "/p"}]"#;
        assert_eq!(found(r#"["group:x", "user:z"]"#, request), Ok(value(r#"["a", "b"]"#)));
        assert_eq!(found(r#"["user:z"]"#, request), Ok(value(r#"["a"]"#)));
        assert_eq!(found("[]", request), Ok(value("[]")));
        assert_eq!(found(r#"["group:x"]"#, r#"[{"host": "z"}, {"host": "b"}]"#), Ok(value(r#"["d"]"#)));
        for (principals, requests) in [("{}", "[]"), ("[]", "{}"), ("[]", "[1]"), ("[]", r#"[{"x": "a"}]"#)] {
            assert!(found(principals, requests).is_err(), "{principals} {requests}");
        }
        assert!(askable(&value("[]"), &value("[]"), &value("[]")).is_err());
    }

    fn asked(entitlements: &Value, principals: &str, requests: &str) -> Value {
        let value = |text: &str| Value::from_json_str(text).unwrap();
        askable(entitlements, &value(principals), &value(requests)).unwrap()
    }

    #[test]
    fn what_is_for_other_addresses_is_not_offered() {
        let with = |conditions: &str| {
            let text = format!(
                r#"{{"e": {{"eligible": ["user:a"], "permissions": [{{"hosts": ["a"]}}], "conditions": {conditions}}}}}"#
            );
            Value::from_json_str(&text).unwrap()
        };
        for (conditions, source, is_offered) in [
            (r#"{"source_cidrs": ["192.0.2.1", "10.0.0.0/8"]}"#, r#", "source": "10.1.2.3""#, true),
            (r#"{"source_cidrs": ["10.0.0.0/8"]}"#, r#", "source": "11.1.2.3""#, false),
            (r#"{"source_cidrs": ["10.0.0.0/8"]}"#, r#", "source": "nowhere""#, false),
            (r#"{"source_cidrs": ["10.0.0.0/8"]}"#, "", false),
            (r#"{"source_cidrs": "10.0.0.0/8"}"#, r#", "source": "10.1.2.3""#, false),
            ("7", r#", "source": "10.1.2.3""#, false),
            ("{}", "", true),
        ] {
            let requests = format!(r#"[{{"host": "a", "method": "GET", "path": "/"{source}}}]"#);
            let found = asked(&with(conditions), r#"["user:a"]"#, &requests);
            assert_eq!(found.as_array().unwrap().len(), usize::from(is_offered), "{conditions} {source}");
        }
    }

    /// A denial has 50 ms, and nothing ends a built-in that takes longer.
    #[test]
    fn it_is_done_in_time() {
        let object = |members: Vec<(String, String)>| {
            let members: Vec<_> = members.iter().map(|(name, text)| format!("{name:?}: {text}")).collect();
            format!("{{{}}}", members.join(","))
        };
        let all = |count: usize, eligible: &str, permissions: &str| {
            let one = format!(r#"{{"eligible": {eligible}, "permissions": {permissions}}}"#);
            let text = object((0..count).map(|n| (format!("e{n:05}"), one.clone())).collect());
            Value::from_json_str(&text).unwrap()
        };
        let list = |count: usize, one: &str| format!("[{}]", vec![one; count].join(","));
        let stars = format!(r#"{{"paths": ["/{}"]}}"#, "**a*".repeat(500));
        let requests = format!(r#"[{{"host": "a", "method": "GET", "path": "/{}b"}}]"#, "a".repeat(8000));
        let many = format!(r#"{{"hosts": {}}}"#, list(1000, r#""x.*.b""#));
        for (what, entitlements) in [
            ("entitlements", all(10_000, r#"["group:x"]"#, r#"[{"hosts": ["b"]}]"#)),
            ("names", all(200, &list(1000, r#""group:y""#), r#"[{"hosts": ["a"]}]"#)),
            ("patterns", all(5, r#"["group:x"]"#, &list(4, &many))),
            ("stars", all(5, r#"["group:x"]"#, &list(4, &stars))),
            ("permissions", all(100, r#"["group:x"]"#, &list(500, r#"{"methods": ["POST"]}"#))),
        ] {
            let quickest = (0..3).map(|_| {
                let begun = std::time::Instant::now();
                assert_eq!(
                    asked(&entitlements, r#"["group:x"]"#, &requests),
                    Value::from_json_str("[]").unwrap()
                );
                begun.elapsed()
            });
            let quickest = quickest.min().unwrap();
            assert!(quickest < std::time::Duration::from_millis(40), "{what} took {quickest:?}");
        }
        // The first few are enough, whatever comes after them.
        let found =
            asked(&all(10_000, r#"["group:x"]"#, r#"[{"hosts": ["a"]}]"#), r#"["group:x"]"#, &requests);
        let names: Vec<_> =
            found.as_array().unwrap().iter().map(|name| name.as_string().unwrap().to_string()).collect();
        assert_eq!(names, ["e00000", "e00001", "e00002", "e00003", "e00004"]);
    }

    #[test]
    fn what_is_no_permission_or_request_is_told() {
        let many = format!("[{}]", vec![r#"{"hosts":["a"]}"#; MAX_PERMISSIONS + 1].join(","));
        for (permissions, request) in [
            ("{}", "{}"),
            ("[1]", "{}"),
            (r#"[{"host": ["a"]}]"#, "{}"),
            (r#"[{"hosts": "a"}]"#, "{}"),
            (r#"[{"hosts": [1]}]"#, "{}"),
            (r#"[{"hosts": []}]"#, "{}"),
            ("[{}]", "{}"),
            (r#"[{"hosts": ["a"]}, {"paths": ["x"]}]"#, r#"{"host": "a"}"#),
            ("[]", "[]"),
            ("[]", r#"{"host": 1}"#),
            ("[]", r#"{"hots": "a"}"#),
            (&many, "{}"),
        ] {
            assert!(covered(permissions, request).is_err(), "{permissions:.60} {request}");
        }
    }
}
