# A token in the request, verified here. Where Envoy's jwt_authn filter verifies it already, read its claims from
# `input.attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"]` instead.
package envoy.authz

default allow := false

token := substring(header, count("Bearer "), -1) if {
	header := input.attributes.request.http.headers.authorization
	startswith(header, "Bearer ")
}

# data.jwks is the issuer's key set as text, in data.json beside this file or in a bundle.
claims := payload if {
	[true, _, payload] := io.jwt.decode_verify(token, {
		"cert": data.jwks,
		"alg": "ES256",
		"iss": data.issuer,
		"aud": "orders",
	})
}

allow := {"allowed": true, "grants": [], "headers": {"x-user": claims.sub}} if "reader" in claims.roles

allow := {"allowed": false, "http_status": 401, "headers": {"www-authenticate": "Bearer"}} if not claims
