package envoy.authz

# A key for this test alone.
key := {
	"kty": "EC",
	"crv": "P-256",
	"x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
	"y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
	"d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
}

public := json.marshal({"keys": [object.remove(key, ["d"])]})

signed(payload) := io.jwt.encode_sign({"typ": "JWT", "alg": "ES256"}, payload, key)

payload(changes) := object.union(
	{"iss": "https://issuer.example", "aud": "orders", "sub": "alice", "roles": ["reader"]},
	changes,
)

decision(token) := value if {
	value := allow with input as {"attributes": {"request": {"http": {"headers": {"authorization": concat(" ", [
		"Bearer",
		token,
	])}}}}}
		with data.jwks as public
		with data.issuer as "https://issuer.example"
}

test_a_reader_passes if {
	decision(signed(payload({}))).headers["x-user"] == "alice"
}

test_others_do_not if decision(signed(payload({"roles": []}))) == false

test_a_token_of_somebody_else_is_401 if {
	decision(signed(payload({"iss": "https://other.example"}))).http_status == 401
	decision(signed(payload({"aud": "billing"}))).http_status == 401
	decision(signed(payload({"exp": 1}))).http_status == 401
	decision("x.y.z").http_status == 401
}

test_no_token_is_401 if {
	value := allow with input as {"attributes": {"request": {"http": {"headers": {}}}}}
	value.http_status == 401
}
