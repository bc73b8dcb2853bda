# Who may ask for access, agree, extend, end and see: the policy daypass has when none is named.
#
# Each action has requirements, and each requirement a rule that holds, or does not. What is undefined does not hold, so
# that nothing passes by accident. Requirements are functions of their name: those that an action does not have are not
# looked at, and lists of names, which may be long, are searched and not copied. To change it, copy this file, edit it and put it beside your policies; what `input`
# holds and what a decision may say is in docs/entitlements.md.
package daypass.admission

decision := object.union({"allowed": true}, terms) if {
	required
	count(missing) == 0
} else := {"allowed": false, "reasons": [reason(name) | some name in sort(told)]} if {
	required
} else := {"allowed": false, "reasons": [sprintf("the admission policy knows no action %v", [action])]}

action := input.action

missing contains name if {
	some name in required
	not holds(name)
}

# What does not exist has no rules that could be told of.
told := missing & {"caller", "entitlement"} if {
	"entitlement" in missing
} else := missing

reason(name) := why(name) if {
	why(name)
} else := sprintf("the requirement %s does not hold", [name])

# What each action takes.
requirements := {
	"request.create": {"caller", "entitlement", "asker", "person", "eligible", "justification", "ticket", "duration", "start"},
	"request.approve": {"caller", "entitlement", "reviewer", "first_review", "not_own", "person", "eligible", "duration", "still_extensible"},
	"request.deny": {"caller", "reviewer_or_administrator", "first_review"},
	"request.withdraw": {"caller", "own_request"},
	"request.view": {"request_visible"},
	"grant.start": {"entitlement", "person", "eligible"},
	"grant.extend": {
		"caller", "entitlement", "asker", "person", "same_subject", "eligible", "justification", "ticket", "duration",
		"extensions_left", "total_duration",
	},
	"grant.create": {"administrator"},
	"grant.revoke": {"caller", "ender"},
	"grant.relinquish": {"caller", "own_grant"},
	"grant.revoke_all": {"caller", "administrator_or_self"},
	"grant.view": {"grant_visible"},
	"break_glass": {"caller", "entitlement", "own_emergency", "emergency_eligible", "emergency_reason", "emergency_duration"},
	"lock.create": {"administrator"},
	"lock.delete": {"administrator"},
	"lock.view": {"lock_visible"},
	"event.view": {"event_visible"},
	"entitlement.view": {"entitlement_visible"},
	"access.explain": {"explainer"},
}

# A grant that an administrator made has no entitlement to be held against.
required := {"administrator", "positive_duration", "direct_total"} if {
	action == "grant.extend"
	is_direct
} else := set() if {
	action == "grant.start"
	is_direct
} else := requirements[action]

is_direct if {
	input.grant
	not input.grant.entitlement
	not input.entitlement
}

# Who is who.

entitlement := input.entitlement

default listed := []

listed := input.caller.principals

principals := array.concat(listed, [subject | subject := input.caller.subject])

# One of the caller's own names: a group is many people.
is_self(name) if {
	name in principals
	not startswith(name, "group:")
}

is_self_of(parties) if {
	some name in parties
	is_self(name)
}

# Other names that one person was known by: what a gateway or a workload carries beside the person is not the person.
aliases(subject, all) := {name |
	prefix := concat("", [split(subject, ":")[0], ":"])
	some name in all
	startswith(name, prefix)
}

# One actor may be known as a user by one issuer and as a workload by another, or by a certificate.
of_any_kind(all) := {concat(":", [kind, trim_prefix(trim_prefix(name, "user:"), "workload:")]) |
	some name in all
	some kind in ["user", "workload"]
}

is_administrator if meets(principals, input.administrators)

is_auditor if meets(principals, input.auditors)

sees_everything if is_administrator

sees_everything if is_auditor

# Whoever access is asked for, by all names that are known: groups only of those who ask for themselves.
subject_principals := array.concat(input.request.requester_principals, [input.request.subject]) if {
	input.request.subject == input.request.requester
} else := [input.request.subject]

meets(all, list) if {
	some name in list
	name in all
}

who := input.caller.subject

# Requirements, each with what is told when it does not hold.

holds("caller") if {
	is_string(input.caller.subject)
	not startswith(input.caller.subject, "group:")
}

why("caller") := "nobody is known to be calling: sign in as a person or a workload"

holds("entitlement") if entitlement.name

why("entitlement") := sprintf("there is no entitlement %s any more; ask for one there is", [asked_entitlement])

default asked_entitlement := "of this name"

asked_entitlement := input.grant.entitlement if {
	not input.request.entitlement
} else := input.request.entitlement

holds("asker") if {
	input.request.requester == input.caller.subject
	input.request.subject == input.request.requester
}

holds("asker") if {
	input.request.requester == input.caller.subject
	meets(principals, entitlement.ask_for_others)
}

why("asker") := sprintf("%s may not ask for %s on behalf of others; %s can ask", [
	who,
	entitlement.name,
	input.request.subject,
])

holds("person") if {
	is_string(input.request.subject)
	not startswith(input.request.subject, "group:")
}

why("person") := "access is for a person or a workload, not for a group: its members ask one by one"

holds("eligible") if meets(subject_principals, entitlement.eligible)

why("eligible") := sprintf("%s is not eligible for %s; it is for %s", [
	input.request.subject,
	entitlement.name,
	few(entitlement.eligible),
])

few(list) := concat(", ", list) if {
	count(list) in {1, 2, 3, 4, 5}
} else := "nobody" if {
	count(list) == 0
} else := sprintf("%s and %d more", [concat(", ", array.slice(list, 0, 5)), count(list) - 5])

# daypass refuses text with invisible characters before it asks: what is counted can be seen.
holds("justification") if not entitlement.justification.required

holds("justification") if {
	count(trim_space(input.request.justification)) >= entitlement.justification.min_length
	trim_space(input.request.justification) != ""
}

why("justification") := sprintf("say why, in at least %d characters", [entitlement.justification.min_length])

default ticket := ""

ticket := trim_space(input.request.ticket)

holds("ticket") if {
	ticket == ""
	not entitlement.ticket.required
}

holds("ticket") if {
	ticket != ""
	not entitlement.ticket.pattern
}

holds("ticket") if {
	ticket != ""
	regex.match(entitlement.ticket.anchored, ticket)
}

why("ticket") := sprintf("name a ticket that matches %s", [entitlement.ticket.pattern]) if {
	entitlement.ticket.pattern
} else := "name a ticket"

holds("duration") if {
	input.request.duration_s > 0
	duration_s <= entitlement.max_ttl_s
}

# As asked, or as reviewers have narrowed it.
duration_s := min({input.request.duration_s} | {review.duration_s | some review in input.reviews})

why("duration") := too_much if {
	input.request.duration_s > 0
	too_much
} else := "say for how long, which is more than 0 seconds"

too_much := sprintf("ask for at most %s: %s is more than %s allows", [
	span(entitlement.max_ttl_s),
	span(input.request.duration_s),
	entitlement.name,
])

holds("positive_duration") if input.request.duration_s > 0

why("positive_duration") := "say for how much longer, which is more than 0 seconds"

# Such as 1h30m, as people write it.
span(seconds) := concat("", [part |
	some unit in [["d", 86400, 1000000000], ["h", 3600, 86400], ["m", 60, 3600], ["s", 1, 60]]
	number := floor((seconds % unit[2]) / unit[1])
	number > 0
	part := sprintf("%d%s", [number, unit[0]])
])

holds("start") if not input.request.not_before

holds("start") if {
	begins := time.parse_rfc3339_ns(input.request.not_before)
	begins <= input.now_ns + (input.limits.max_start_ahead_s * 1000000000)
}

why("start") := sprintf("access may begin at most %s from now", [span(input.limits.max_start_ahead_s)])

# Approval.

can_review if meets(principals, entitlement.approvers)

holds("reviewer") if can_review

why("reviewer") := no_approver

no_approver := sprintf("%s is no approver of %s; %s decide", [who, entitlement.name, few(entitlement.approvers)])

holds("reviewer_or_administrator") if can_review

holds("reviewer_or_administrator") if {
	not entitlement
	is_administrator
}

why("reviewer_or_administrator") := no_approver

holds("first_review") if {
	every review in earlier_reviews {
		is_array(review.principals)
		not is_mine(review)
	}
}

mine := of_any_kind(aliases(who, principals) | {who})

is_mine(review) if review.reviewer in mine

is_mine(review) if meets(review.principals, mine)

why("first_review") := sprintf("%s has reviewed this request already; somebody else must decide", [who])

# The review that is being made is the last one. A denial ends a request, so before it there are approvals alone.
earlier_reviews := array.slice(input.reviews, 0, count(input.reviews) - 1) if {
	action == "request.approve"
	input.reviews[count(input.reviews) - 1].reviewer == input.caller.subject
} else := [review | some review in input.reviews; review.decision == "approved"] if {
	action == "request.deny"
}

# Everybody whose request it is, by all names that are known of them.
owners := of_any_kind((parties | delegates) | aliases(input.request.requester, input.request.requester_principals))

parties := {input.request.requester, input.request.subject}

delegates contains input.request.delegate

holds("not_own") if entitlement.allow_self_approval

holds("not_own") if {
	is_array(input.caller.principals)
	not meets(principals, owners)
	not input.caller.delegate in owners
}

why("not_own") := "nobody approves their own request, nor one made for them or by who acts for them: somebody else must decide"

holds("still_extensible") if input.request.kind == "access"

holds("still_extensible") if {
	input.request.kind == "extension"
	extensions_left
	total_fits
}

why("still_extensible") := too_long if {
	extensions_left
} else := too_often

# Approvals that count now: of those who are approvers still, and whose own request it is not.
approvals contains review.reviewer if {
	some review in input.reviews
	review.decision == "approved"
	all := array.concat(review.principals, [review.reviewer])
	meets(all, entitlement.approvers)
	is_other(review, all)
}

is_other(_, _) if entitlement.allow_self_approval

is_other(review, all) if {
	not meets(all, owners)
	not review.delegate in owners
}

# Grants.

holds("same_subject") if input.request.subject == input.grant.subject

why("same_subject") := sprintf("the grant is not one of %s", [input.request.subject])

holds("extensions_left") if extensions_left

why("extensions_left") := too_often

extensions_left if input.grant.extensions < entitlement.max_extensions

too_often := sprintf("a grant of %s is extended at most %d time(s); ask for access again", [
	entitlement.name,
	entitlement.max_extensions,
])

holds("total_duration") if total_fits

why("total_duration") := too_long

total_fits if {
	input.grant.total_s + duration_s <= entitlement.max_total_ttl_s
	input.grant.total_s + duration_s <= input.limits.max_grant_ttl_s
}

too_long := sprintf("with all extensions a grant of %s lasts at most %s, and this one has %s; ask for access again", [
	entitlement.name,
	span(min([entitlement.max_total_ttl_s, input.limits.max_grant_ttl_s])),
	span(input.grant.total_s),
])

holds("direct_total") if input.grant.total_s + input.request.duration_s <= input.limits.max_grant_ttl_s

why("direct_total") := sprintf("with all extensions a grant lasts at most %s", [span(input.limits.max_grant_ttl_s)])

holds("administrator") if is_administrator

why("administrator") := sprintf("only administrators may do this; they are %s", [few(input.administrators)])

holds("administrator_or_self") if is_administrator

holds("administrator_or_self") if is_self(input.target.principal)

why("administrator_or_self") := sprintf("only administrators may end the grants of others; they are %s", [few(input.administrators)])

holds("ender") if is_administrator

holds("ender") if can_review

holds("ender") if is_self(input.grant.requester)

why("ender") := sprintf("only administrators (%s), approvers of its entitlement and who asked for it may end this grant", [few(input.administrators)])

holds("own_grant") if is_self(input.grant.subject)

holds("own_grant") if is_self(input.grant.requester)

why("own_grant") := "only the grant's own subject, or who asked for it, can give it back"

holds("own_request") if is_self_of(parties | delegates)

holds("own_request") if is_administrator

why("own_request") := "only who asked, whom it is for and administrators can take a request back"

# Emergencies.

holds("own_emergency") if not input.request.subject

holds("own_emergency") if input.request.subject == input.caller.subject

why("own_emergency") := "in an emergency everybody takes access for themselves alone"

holds("emergency_eligible") if meets(principals, entitlement.break_glass.eligible)

why("emergency_eligible") := sprintf("%s may not break the glass for %s; %s may", [
	who,
	entitlement.name,
	few(entitlement.break_glass.eligible),
])

min_emergency_reason := 10

holds("emergency_reason") if count(trim_space(input.request.justification)) >= min_emergency_reason

why("emergency_reason") := sprintf("say what happened, in at least %d characters", [min_emergency_reason])

holds("emergency_duration") if not input.request.duration_s

holds("emergency_duration") if input.request.duration_s > 0

why("emergency_duration") := "say for how long, which is more than 0 seconds, or leave it out"

# Who sees what.

request_seen if is_self_of(parties | delegates)

request_seen if {
	some review in input.reviews
	is_self(review.reviewer)
}

request_seen if can_review

# A grant for a group is its members'.
grant_seen if input.grant.subject in principals

grant_seen if is_self(input.grant.requester)

grant_seen if can_review

entitlement_seen if {
	some list in [
		entitlement.eligible,
		entitlement.approvers,
		entitlement.ask_for_others,
		entitlement.break_glass.eligible,
	]
	meets(principals, list)
}

lock_seen if input.target.principal in principals

lock_seen if input.target.everything == true

lock_seen if {
	input.target.entitlement
	entitlement_seen
}

event_seen if is_self(input.event.actor)

event_seen if input.event.subject in principals

event_seen if request_seen

event_seen if grant_seen

holds("request_visible") if sees_everything

holds("request_visible") if request_seen

why("request_visible") := not_visible("request")

holds("grant_visible") if sees_everything

holds("grant_visible") if grant_seen

why("grant_visible") := not_visible("grant")

holds("entitlement_visible") if sees_everything

holds("entitlement_visible") if entitlement_seen

why("entitlement_visible") := not_visible("entitlement")

holds("lock_visible") if sees_everything

holds("lock_visible") if lock_seen

why("lock_visible") := not_visible("lock")

holds("event_visible") if sees_everything

holds("event_visible") if event_seen

why("event_visible") := not_visible("event")

holds("explainer") if sees_everything

holds("explainer") if input.target.principal in principals

why("explainer") := "only administrators and auditors may see how others stand; leave the principal out for yourself"

not_visible(thing) := sprintf("this %s is seen by those who have to do with it, administrators and auditors", [thing])

# Terms.

terms := approval_terms if {
	needs_approval
} else := {"ttl_s": min([object.get(input.request, "duration_s", limit), limit])} if {
	action == "break_glass"
	limit := entitlement.break_glass.max_ttl_s
} else := {} if {
	not needs_approval
}

needs_approval if action in {"request.create", "request.approve", "grant.start", "grant.extend"}

approval_terms := object.union(shorter, {
	"approvals_required": entitlement.approvals,
	"approvals": approvals,
	"approve_within_s": entitlement.approve_within_s,
}) if {
	entitlement.approvals > 0
} else := object.union(shorter, {
	"approvals_required": 0,
	"approve_within_s": entitlement.approve_within_s,
	"note": sprintf("%s needs nobody's approval", [entitlement.name]),
}) if {
	entitlement.approvals == 0
} else := {"approvals_required": 0, "note": "no entitlement asks for approval of this grant"} if {
	is_direct
}

# What was scheduled before the longest time became less is no longer than that.
shorter := {"ttl_s": entitlement.max_ttl_s} if {
	action == "grant.start"
} else := {}
