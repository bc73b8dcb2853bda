# Which workload may call which, by the SPIFFE ids of their certificates. Needs a listener that validates clients.
package envoy.authz

default allow := false

# data.callers: {"spiffe://td/ns/prod/sa/orders": {"GET": ["/stock", "/stock/**"]}}
allow := {"allowed": true, "grants": []} if {
	http := input.attributes.request.http
	some pattern in data.callers[input.attributes.source.principal][http.method]
	glob.match(pattern, ["/"], path)
}

# Without the query. A path that can be read in two ways is for nobody.
path := text if {
	text := split(input.attributes.request.http.path, "?")[0]
	not regex.match(`//|/\.|%|\\`, text)
}
