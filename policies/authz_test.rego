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
