# Rules over bodies. Envoy must send them (`with_request_body`), whole: a body that was cut off decides nothing.
package envoy.authz

default allow := false

amount := input.parsed_body.amount if {
	input.truncated_body == false
	is_number(input.parsed_body.amount)
}

# data.limit is what passes without a grant.
allow := {"allowed": true, "grants": []} if {
	amount > 0
	amount <= data.limit
}

allow := {"allowed": true, "grants": [grant.id]} if {
	amount > data.limit
	some grant in input.jit.covering
	amount <= grant.attributes.max_amount
}
