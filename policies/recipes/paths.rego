# Some paths are for everybody, some for those who hold a grant that covers them, the rest for nobody.
package envoy.authz

default allow := false

http := input.attributes.request.http

# Decoded by OPA-Envoy's rules and split at `/`: compare segments, not the text of the path.
allow := {"allowed": true, "grants": []} if {
	http.method in {"GET", "HEAD"}
	input.parsed_path == ["healthz"]
}

allow := {"allowed": true, "grants": [input.jit.covering[0].id]} if input.parsed_path[0] in {"api", "admin"}
