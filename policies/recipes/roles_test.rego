package envoy.authz

request(method, grants) := {
	"attributes": {"request": {"http": {"method": method}}},
	"parsed_path": ["db", "orders"],
	"jit": {"grants": grants},
}

reader := {"id": "g-reader", "roles": ["db-reader"], "expires_at": "2030-01-01T10:00:00Z"}

admin := {"id": "g-admin", "roles": ["db-admin"], "expires_at": "2030-01-01T09:00:00Z"}

test_a_reader_reads if allow.grants == ["g-reader"] with input as request("GET", [reader])

test_a_reader_does_not_write if allow.reason == "no_grant" with input as request("POST", [reader])

test_the_grant_that_ends_last_carries_the_request if {
	allow.grants == ["g-reader"] with input as request("GET", [admin, reader])
	allow.grants == ["g-admin"] with input as request("DELETE", [admin, reader])
}

test_of_equals_one_is_chosen if {
	allow.grants == ["g-reader"] with input as request("GET", [object.union(admin, {"expires_at": reader.expires_at}), reader])
}

test_no_grant_is_told_what_to_ask_for if {
	value := allow with input as request("GET", [])
	contains(value.body, "db-reader")
}
