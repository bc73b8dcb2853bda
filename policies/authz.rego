# The policy daypass has when none is named: a request passes if a grant covers it.
#
# To change it, copy this file, edit it and start daypass with --policy. What `input` holds and what a decision may
# say is in docs/policies.md.
package envoy.authz

# Probes of load balancers and orchestrators come without a caller. The paths are `health_paths` of the configuration;
# `"grants": []` says that the decision rests on no grant, so it also stands while the grants cannot be read.
allow := {"allowed": true, "grants": []} if {
	some health_path in data.daypass.config.health_paths
	health_path == input.attributes.request.http.path
	method in {"GET", "HEAD"}
} else := {
	"allowed": true,
	"headers": {"x-daypass-grant": grant.id, "x-daypass-expires": grant.expires_at},
	"grants": [grant.id],
} if {
	grant := input.jit.covering[0]
} else := denied("not_covered", sprintf("%s holds %d grant(s), but none covers %s", [
	who,
	count(input.jit.grants),
	request,
])) if {
	count(input.jit.grants) > 0
} else := denied("no_grant", sprintf("%s holds no grant; %s needs one", [who, request]))

# One by one: what of the input no rule reads, daypass need not build for each request.
method := input.attributes.request.http.method

host := input.attributes.request.http.host

# Without the query, which may hold secrets.
path := split(input.attributes.request.http.path, "?")[0]

denied(reason, message) := {
	"allowed": false,
	"reason": reason,
	"http_status": 403,
	"headers": {"content-type": "application/json"},
	"body": concat("", [json.marshal(object.union(
		{
			"reason": reason,
			"message": message,
			"principals": input.jit.principals,
		},
		way_on,
	)), "\n"]),
}

# What to ask for, if there is anything that the caller may ask for; else how access is given by hand.
way_on := {"ask": offers} if {
	count(offers) > 0
} else := {"hint": hint}

# A person picks one; more would hide it.
max_offers := 5

# Entitlements that would cover this very request and are for one of the caller's names. Evaluated for denials alone.
offers := [offer |
	askable := daypass.askable(data.daypass.entitlements, input.jit.principals, requests)
	some name in array.slice(askable, 0, max_offers)
	offer := object.union(
		{
			"entitlement": name,
			"description": object.get(data.daypass.entitlements[name], "description", ""),
			"command": sprintf("daypass request create %s --reason ...", [name]),
		},
		link(name),
	)
]

# Whether it is a gRPC request is in a header, which is not worth reading for each check.
requests := [asked, object.union(asked, {"grpc_method": trim_prefix(path, "/")})]

# The peer's address is not read either: entitlements that are for some addresses alone are not named here, and
# `daypass explain` knows them.
asked := {"host": host, "method": method, "path": path}

# Where people ask: `request_url` of the configuration.
link(name) := {"url": replace(data.daypass.config.request_url, "{entitlement}", urlquery.encode(name))} if {
	data.daypass.config.request_url
} else := {}

default who := "an unidentified caller"

who := input.jit.subject

default request := "this connection"

request := sprintf("%s %s%s", [method, host, path])

default hint := "ask for access, for example: daypass grant create --subject <principal> --host <host> --path <path> --ttl 15m"

hint := "send credentials that Envoy can verify; no user or workload was established" if not input.jit.subject

else := sprintf("ask for: daypass grant create --subject %s --host %s --method %s --path %s --ttl 15m", [
	quoted(input.jit.subject),
	quoted(host),
	quoted(method),
	quoted(path),
])

# A caller chooses them, and somebody else may paste the line into a shell.
quoted(text) := text if {
	text != ""
	trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~/:@%+-") == ""
} else := concat("", ["'", replace(text, "'", `'\''`), "'"])
