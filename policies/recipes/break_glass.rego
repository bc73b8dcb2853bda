# Emergencies: a grant that is marked `break_glass` opens everything but what is never opened, and says so upstream, to
# Envoy's access log and in the decision log.
package envoy.authz

default allow := false

never if input.parsed_path[0] in {"keys", "backups"}

emergency := [grant | some grant in input.jit.grants; grant.break_glass == true]

allow := {"allowed": true, "grants": [input.jit.covering[0].id]} if {
	not never
	count(input.jit.covering) > 0
}

else := {
	"allowed": true,
	"grants": [emergency[0].id],
	"headers": {"x-break-glass": emergency[0].justification},
	"dynamic_metadata": {"break_glass": true},
} if {
	not never
	count(emergency) > 0
}
