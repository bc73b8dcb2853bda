//! The grant API over gRPC: who may call it, and what it says to mistakes.

use daypass::api::v1;
use daypass::api::v1::grant_service_client::GrantServiceClient;
use daypass::api::v1::revoke_all_grants_request::Target;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::support::daypass::{Daypass, channel};

struct Api {
    client: GrantServiceClient<Channel>,
    token: String,
}

impl Api {
    async fn of(daypass: &Daypass) -> Self {
        let token = std::fs::read_to_string(daypass.data_dir().join("token")).unwrap().trim().to_owned();
        Self { client: GrantServiceClient::new(channel(&daypass.api).await), token }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    async fn create(&mut self, grant: v1::Grant, seconds: i64) -> Result<v1::Grant, Status> {
        let ttl = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = self.request(v1::CreateGrantRequest { grant: Some(grant), ttl });
        self.client.create_grant(request).await.map(tonic::Response::into_inner)
    }

    async fn list(&mut self, subject: &str, page_size: u32, page_token: &str) -> v1::ListGrantsResponse {
        let message = v1::ListGrantsRequest {
            subject: subject.into(),
            page_size,
            page_token: page_token.into(),
            ..Default::default()
        };
        let request = self.request(message);
        self.client.list_grants(request).await.unwrap().into_inner()
    }
}

fn grant(id: &str, subject: &str) -> v1::Grant {
    v1::Grant { id: id.into(), subject: subject.into(), ..v1::Grant::default() }
}

#[tokio::test]
async fn no_call_without_the_token() {
    let daypass = Daypass::start(&[]);
    let mut api = Api::of(&daypass).await;
    assert!(api.create(grant("g", "user:a"), 60).await.is_ok());
    for wrong in ["", "x", &format!("{}x", api.token)] {
        let mut thief = Api { client: api.client.clone(), token: wrong.to_owned() };
        assert_eq!(thief.create(grant("h", "user:a"), 60).await.unwrap_err().code(), Code::Unauthenticated);
        let get = thief.request(v1::GetGrantRequest { id: "g".into() });
        assert_eq!(thief.client.get_grant(get).await.unwrap_err().code(), Code::Unauthenticated);
        let list = thief.request(v1::ListGrantsRequest::default());
        assert_eq!(thief.client.list_grants(list).await.unwrap_err().code(), Code::Unauthenticated);
        let revoke = thief.request(v1::RevokeGrantRequest { id: "g".into(), reason: String::new() });
        assert_eq!(thief.client.revoke_grant(revoke).await.unwrap_err().code(), Code::Unauthenticated);
    }
    let bare = v1::GetGrantRequest { id: "g".into() };
    assert_eq!(api.client.get_grant(bare).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn keeps_everything_it_is_given() {
    let daypass = Daypass::start(&[]);
    let mut api = Api::of(&daypass).await;
    let number = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(1.5)) };
    let whole = v1::Grant {
        id: "whole".into(),
        subject: "group:sre".into(),
        permissions: vec![v1::Permission {
            hosts: vec!["a.*".into()],
            methods: vec!["GET".into()],
            paths: vec!["/x/**".into()],
            grpc_methods: Vec::new(),
        }],
        not_before: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        expires_at: None,
        max_uses: 7,
        conditions: Some(v1::Conditions { source_cidrs: vec!["10.0.0.0/8".into()] }),
        roles: vec!["r".into()],
        attributes: Some(prost_types::Struct { fields: [("k".to_owned(), number)].into() }),
        entitlement: "e".into(),
        request: "q".into(),
        approved_by: vec!["user:boss".into()],
        justification: "why".into(),
        ticket: "T".into(),
        break_glass: true,
        ..Default::default()
    };
    let created = api.create(whole.clone(), 60).await.unwrap();
    assert!(created.expires_at.is_some());
    let given = v1::Grant { expires_at: None, create_time: None, state: 0, ..created.clone() };
    assert_eq!((given, created.state()), (whole, v1::GrantState::Active));
    let get = api.request(v1::GetGrantRequest { id: "whole".into() });
    assert_eq!(api.client.get_grant(get).await.unwrap().into_inner(), created);
}

#[tokio::test]
async fn pages_and_filters() {
    let daypass = Daypass::start(&[]);
    let mut api = Api::of(&daypass).await;
    for number in 0..5 {
        api.create(grant(&format!("g{number}"), if number % 2 == 0 { "user:even" } else { "user:odd" }), 60)
            .await
            .unwrap();
    }
    let ids = |page: &v1::ListGrantsResponse| page.grants.iter().map(|g| g.id.clone()).collect::<Vec<_>>();
    let first = api.list("", 2, "").await;
    assert_eq!((ids(&first), first.next_page_token.as_str()), (vec!["g0".into(), "g1".into()], "g1"));
    let last = api.list("", 3, "g1").await;
    assert_eq!(
        (ids(&last), last.next_page_token.as_str()),
        (vec!["g2".into(), "g3".into(), "g4".into()], "")
    );
    assert_eq!(ids(&api.list("user:odd", 0, "").await), ["g1", "g3"]);
    let revoke = api.request(v1::RevokeAllGrantsRequest {
        target: Some(Target::Subject("user:even".into())),
        ..Default::default()
    });
    assert_eq!(api.client.revoke_all_grants(revoke).await.unwrap().into_inner().ids, ["g0", "g2", "g4"]);
    assert_eq!(ids(&api.list("", 0, "").await), ["g1", "g3"]);
}

#[tokio::test]
async fn mistakes_are_named() {
    let daypass = Daypass::start(&[]);
    let mut api = Api::of(&daypass).await;
    api.create(grant("taken", "user:a"), 60).await.unwrap();
    let hosts = |hosts: &[&str]| v1::Permission {
        hosts: hosts.iter().map(|h| (*h).into()).collect(),
        ..v1::Permission::default()
    };
    let with = |permission| v1::Grant { permissions: vec![permission], ..grant("", "user:a") };
    for (grant, seconds, code, message) in [
        (grant("taken", "user:b"), 60, Code::AlreadyExists, "exists"),
        (grant("a b", "user:a"), 60, Code::InvalidArgument, "`id`"),
        (grant("", "alice"), 60, Code::InvalidArgument, "`subject`"),
        (grant("", "user:a"), 0, Code::InvalidArgument, "`ttl`"),
        (grant("", "user:a"), -5, Code::InvalidArgument, "`ttl`"),
        (grant("", "user:a"), 25 * 3600, Code::InvalidArgument, "ttl_too_long"),
        (with(hosts(&[])), 60, Code::InvalidArgument, "`permissions`"),
        (with(hosts(&[""])), 60, Code::InvalidArgument, "`permissions`"),
    ] {
        let status = api.create(grant.clone(), seconds).await.unwrap_err();
        assert_eq!(status.code(), code, "{grant:?} {status:?}");
        assert!(status.message().contains(message), "{grant:?} {status:?}");
    }
    let request = api.request(v1::RevokeAllGrantsRequest::default());
    assert_eq!(api.client.revoke_all_grants(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn the_cli_says_what_to_do() {
    let daypass = Daypass::start(&[]);
    let created = daypass
        .grant(&["create", "--subject", "user:a", "--host", "h", "--ttl", "15m", "--json"])
        .map(|json| serde_json::from_str::<serde_json::Value>(&json).unwrap())
        .unwrap();
    assert_eq!(created["permissions"][0]["hosts"][0], "h");
    let shown = daypass.grant(&["show", created["id"].as_str().unwrap()]).unwrap();
    assert!(shown.contains("\"subject\": \"user:a\""), "{shown}");
    for (args, message) in [
        (&["create", "--subject", "user:a", "--ttl", "soon"][..], "write 150ms, 90s, 15m"),
        (&["create", "--subject", "alice", "--ttl", "5m"], "a principal begins with"),
        (&["revoke"], "--subject"),
        (&["show", "nope"], "no such grant"),
    ] {
        let error = daypass.grant(args).unwrap_err();
        assert!(error.contains(message), "{args:?}: {error}");
    }
    let nowhere = crate::support::daypass::run(&[
        "grant",
        "--api",
        "http://127.0.0.1:1",
        "--data-dir",
        "/nonexistent",
        "ls",
    ]);
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("no token; name one with --token-file"));
}
