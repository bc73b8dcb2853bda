package envoy.authz

request(method, path) := {
	"attributes": {"request": {"http": {"method": method}}},
	"parsed_path": path,
	"jit": {"covering": []},
}

covered(method, path) := object.union(request(method, path), {"jit": {"covering": [{"id": "g-1"}]}})

test_everybody_may_ask_for_health if allow.allowed with input as request("GET", ["healthz"])

test_nobody_may_write_to_health if allow == false with input as request("POST", ["healthz"])

test_the_api_needs_a_grant if {
	allow == false with input as request("GET", ["api", "users"])
	allow.grants == ["g-1"] with input as covered("GET", ["api", "users"])
}

test_a_grant_opens_nothing_else if allow == false with input as covered("GET", ["metrics"])
