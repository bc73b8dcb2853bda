# Grants that carry roles instead of paths: what a role may do is written here, who has it and until when is a grant.
package envoy.authz

default allow := {"allowed": false, "reason": "no_grant", "body": "ask for the role db-admin or db-reader\n"}

permitted := {
	"db-reader": {"GET", "HEAD"},
	"db-admin": {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"},
}

# Of several grants the one that ends last: the request may last as long as it does.
usable := sort([[grant.expires_at, grant.id] |
	some grant in input.jit.grants
	some role in grant.roles
	input.attributes.request.http.method in permitted[role]
])

allow := {"allowed": true, "grants": [id]} if {
	input.parsed_path[0] == "db"
	[_, id] := usable[count(usable) - 1]
}
