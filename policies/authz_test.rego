package envoy.authz_test

import data.envoy.authz

grant := {"id": "g-1", "subject": "user:alice", "expires_at": "2030-01-01T00:00:00Z"}

other := {"id": "g-2", "subject": "user:alice", "expires_at": "2031-01-01T00:00:00Z"}

request(method, path, jit) := {
	"attributes": {"request": {"http": {"method": method, "host": "orders.svc", "path": path}}},
	"jit": object.union({"principals": ["user:alice"], "subject": "user:alice", "grants": [], "covering": []}, jit),
}

test_covering_grant_allows_and_tells_upstream if {
	decision := authz.allow with input as request("GET", "/db", {"grants": [grant], "covering": [grant]})
	decision == {
		"allowed": true,
		"headers": {"x-daypass-grant": "g-1", "x-daypass-expires": "2030-01-01T00:00:00Z"},
		"grants": ["g-1"],
	}
}

test_best_covering_grant_decides if {
	decision := authz.allow with input as request("GET", "/db", {"grants": [grant, other], "covering": [other, grant]})
	decision.grants == ["g-2"]
}

test_no_grant_is_denied if {
	decision := authz.allow with input as request("GET", "/db?secret=1", {})
	not decision.allowed
	decision.reason == "no_grant"
	decision.http_status == 403
	body := json.unmarshal(decision.body)
	body.reason == "no_grant"
	contains(body.message, "user:alice holds no grant; GET orders.svc/db needs one")
	not contains(decision.body, "secret")
	contains(body.hint, "--subject user:alice --host orders.svc --method GET --path /db ")
}

hint(subject, path) := json.unmarshal(decision.body).hint if {
	decision := authz.allow with input as request("GET", path, {"subject": subject})
}

test_the_hint_is_safe_in_a_shell if {
	contains(hint("user:alice", "/a;id"), " --path '/a;id' --ttl")
	contains(hint("user:alice", "/$(id)"), " --path '/$(id)' --ttl")
	contains(hint("user:alice", "/a'b`id`"), ` --path '/a'\''b`)
	contains(hint("user:alice", ""), " --path '' --ttl")
	contains(hint("user:al ice&", "/~a.b_c/%2f+@:-"), "--subject 'user:al ice&' --host orders.svc --method GET --path /~a.b_c/%2f+@:- --ttl")
}

test_grant_for_something_else_is_denied if {
	decision := authz.allow with input as request("GET", "/db", {"grants": [grant]})
	not decision.allowed
	decision.reason == "not_covered"
	contains(json.unmarshal(decision.body).message, "holds 1 grant(s)")
}

test_nobody_is_denied if {
	nobody := object.remove(request("GET", "/db", {"principals": []}), ["jit"])
	decision := authz.allow with input as object.union(nobody, {"jit": {"principals": [], "grants": [], "covering": []}})
	not decision.allowed
	decision.reason == "no_grant"
	contains(json.unmarshal(decision.body).message, "an unidentified caller")
}

test_connection_without_request_is_denied if {
	decision := authz.allow with input as {"jit": {"principals": ["user:a"], "subject": "user:a", "grants": [], "covering": []}}
	not decision.allowed
	contains(json.unmarshal(decision.body).message, "this connection")
}

entitlements := {
	"orders-read": {
		"description": "Read orders",
		"permissions": [{"hosts": ["orders.*"], "methods": ["GET"]}],
		"eligible": ["group:dev", "user:alice"],
	},
	"orders.write": {"permissions": [{"hosts": ["orders.*"], "methods": ["POST"]}], "eligible": ["user:alice"]},
	"orders-rpc": {"permissions": [{"grpc_methods": ["orders.v1.Orders/*"]}], "eligible": ["user:alice"]},
	"others": {"permissions": [{"hosts": ["orders.*"]}], "eligible": ["group:ops"]},
	"elsewhere": {"permissions": [{"hosts": ["stock.*"]}], "eligible": ["user:alice"]},
	"role": {"roles": ["r"], "eligible": ["user:alice"]},
}

denial(method, path, jit) := json.unmarshal(decision.body) if {
	decision := authz.allow with input as request(method, path, jit)
		with data.daypass.entitlements as entitlements
}

test_denials_name_what_to_ask_for if {
	read := {
		"entitlement": "orders-read",
		"description": "Read orders",
		"command": "daypass request create orders-read --reason ...",
	}
	body := denial("GET", "/db?secret=1", {})
	body.ask == [read]
	not body.hint
	denial("GET", "/db", {"grants": [grant]}).ask == [read]
	dev := {"principals": ["user:dan", "group:dev"], "subject": "user:dan"}
	denial("GET", "/db", dev).ask == [read]
	[offer.entitlement | some offer in denial("POST", "/db", {}).ask] == ["orders.write"]
}

test_denials_name_what_to_ask_for_of_grpc_requests if {
	[offer.entitlement | some offer in denial("POST", "/orders.v1.Orders/Get", {}).ask] == ["orders-rpc", "orders.write"]
}

test_the_hint_stays_where_there_is_nothing_to_ask_for if {
	every body in [
		denial("DELETE", "/db", {}),
		denial("GET", "/db/..%2f", {}),
		denial("GET", "/db", {"principals": ["user:mallory"], "subject": "user:mallory"}),
	] {
		body.hint
		not body.ask
	}
}

test_what_is_for_some_addresses_alone_is_not_named if {
	inside := object.union(entitlements["orders-read"], {"conditions": {"source_cidrs": ["10.0.0.0/8"]}})
	decision := authz.allow with input as request("GET", "/db", {})
		with data.daypass.entitlements as {"orders-read": inside}
	not json.unmarshal(decision.body).ask
}

test_a_few_are_named if {
	many := {sprintf("e%02d", [n]): {"permissions": [{"hosts": ["orders.*"]}], "eligible": ["user:alice"]} |
		some n in numbers.range(1, 20)
	}
	decision := authz.allow with input as request("GET", "/db", {})
		with data.daypass.entitlements as many
	[offer.entitlement | some offer in json.unmarshal(decision.body).ask] == ["e01", "e02", "e03", "e04", "e05"]
}

test_where_to_ask if {
	decision := authz.allow with input as request("GET", "/db", {})
		with data.daypass.entitlements as {"a b&c": entitlements["orders-read"]}
		with data.daypass.config as {"health_paths": [], "request_url": "https://access.example/{entitlement}?for={entitlement}"}
	json.unmarshal(decision.body).ask[0].url == "https://access.example/a+b%26c?for=a+b%26c"
}

test_what_may_be_asked_for_does_not_pass if {
	decision := authz.allow with input as request("GET", "/db", {})
		with data.daypass.entitlements as entitlements
	decision.allowed == false
	decision.reason == "no_grant"
	decision.http_status == 403
	health := authz.allow with input as request("GET", "/healthz", {})
		with data.daypass.entitlements as entitlements
		with data.daypass.config as {"health_paths": ["/healthz"]}
	health == {"allowed": true, "grants": []}
}

test_health_path_rests_on_no_grant if {
	decision := authz.allow with input as request("GET", "/healthz", {})
		with data.daypass.config as {"health_paths": ["/healthz"]}
	decision == {"allowed": true, "grants": []}
}

test_health_path_is_exact_and_read_only if {
	every wrong in [["POST", "/healthz"], ["GET", "/healthz/x"], ["GET", "/healthz?x"]] {
		decision := authz.allow with input as request(wrong[0], wrong[1], {})
			with data.daypass.config as {"health_paths": ["/healthz"]}
		not decision.allowed
	}
}
