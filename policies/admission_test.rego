package daypass.admission_test

import data.daypass.admission

entitlement := {
	"name": "orders-db",
	"revision": "r1",
	"eligible": ["group:dev", "user:zoe"],
	"approvers": ["group:leads", "user:bob"],
	"approvals": 1,
	"default_ttl_s": 3600,
	"max_ttl_s": 28800,
	"max_total_ttl_s": 36000,
	"max_extensions": 1,
	"approve_within_s": 14400,
	"justification": {"required": true, "min_length": 10},
	"ticket": {"required": false},
	"allow_self_approval": false,
	"ask_for_others": ["group:helpdesk"],
	"break_glass": {"eligible": ["group:oncall"], "max_ttl_s": 3600},
}

alice := {"subject": "user:alice", "principals": ["user:alice", "group:dev"], "source": "jwt"}

bob := {"subject": "user:bob", "principals": ["user:bob"], "source": "jwt"}

lena := {"subject": "user:lena", "principals": ["user:lena", "group:leads", "group:dev"], "source": "jwt"}

hank := {"subject": "user:hank", "principals": ["user:hank", "group:helpdesk"], "source": "jwt"}

olga := {"subject": "user:olga", "principals": ["user:olga", "group:oncall"], "source": "jwt"}

root := {"subject": "user:root", "principals": ["user:root", "group:daypass-admins"], "source": "jwt"}

audrey := {"subject": "user:audrey", "principals": ["user:audrey", "group:audit"], "source": "jwt"}

mallory := {"subject": "user:mallory", "principals": ["user:mallory", "group:sales"], "source": "jwt"}

request := {
	"id": "r1",
	"kind": "access",
	"state": "PENDING",
	"entitlement": "orders-db",
	"requester": "user:alice",
	"requester_principals": ["user:alice", "group:dev"],
	"subject": "user:alice",
	"subject_principals": ["user:alice", "group:dev"],
	"justification": "a customer is stuck",
	"ticket": "",
	"duration_s": 3600,
}

grant := {
	"id": "g1",
	"subject": "user:alice",
	"entitlement": "orders-db",
	"request": "r1",
	"requester": "user:alice",
	"state": "ACTIVE",
	"extensions": 0,
	"total_s": 28800,
	"break_glass": false,
}

direct := {"id": "g2", "subject": "user:alice", "requester": "user:root", "state": "ACTIVE", "extensions": 7, "total_s": 3600}

question(action, caller, more) := object.union(
	{
		"action": action,
		"now": "2026-01-01T00:00:00Z",
		"now_ns": 1767225600000000000,
		"caller": caller,
		"limits": {"max_grant_ttl_s": 86400, "max_start_ahead_s": 604800},
		"administrators": ["group:daypass-admins"],
		"auditors": ["group:audit"],
	},
	more,
)

about(request_, entitlement_) := {"request": request_, "entitlement": entitlement_}

with_request(changes) := about(object.union(request, changes), entitlement)

with_entitlement(changes) := about(request, object.union(entitlement, changes))

said(action, caller, more) := decision if {
	decision := admission.decision with input as question(action, caller, more)
}

allowed(action, caller, more) if said(action, caller, more).allowed == true

# Refused for this reason and no other.
refused(action, caller, more, part) if {
	decision := said(action, caller, more)
	decision.allowed == false
	count(decision.reasons) == 1
	contains(decision.reasons[0], part)
}

review(caller, decision) := {
	"reviewer": caller.subject,
	"principals": caller.principals,
	"decision": decision,
	"reason": "",
	"time": "2026-01-01T00:00:00Z",
}

approval(callers) := {"reviews": [review(caller, "approved") | some caller in callers]}

approving(caller, callers, request_, entitlement_) := said(
	"request.approve",
	caller,
	object.union(about(object.union(request, request_), object.union(entitlement, entitlement_)), approval(callers)),
)

not_approving(caller, callers, request_, entitlement_, part) if {
	decision := approving(caller, callers, request_, entitlement_)
	decision.allowed == false
	count(decision.reasons) == 1
	contains(decision.reasons[0], part)
}

# Asking.

test_an_eligible_person_asks if {
	said("request.create", alice, with_request({})) == {
		"allowed": true,
		"approvals_required": 1,
		"approvals": set(),
		"approve_within_s": 14400,
	}
	zoe := {"subject": "user:zoe", "principals": ["user:zoe"], "source": "jwt"}
	allowed("request.create", zoe, with_request({
		"requester": "user:zoe",
		"requester_principals": ["user:zoe"],
		"subject": "user:zoe",
	}))
}

test_others_are_not_eligible if {
	theirs := with_request({
		"requester": "user:mallory",
		"requester_principals": ["user:mallory", "group:sales"],
		"subject": "user:mallory",
	})
	refused("request.create", mallory, theirs, "user:mallory is not eligible for orders-db; it is for group:dev, user:zoe")
	refused("request.create", alice, with_entitlement({"eligible": []}), "it is for nobody")
	many := ["user:1", "user:2", "user:3", "user:4", "user:5", "user:6", "user:7"]
	refused("request.create", alice, with_entitlement({"eligible": many}), "user:5 and 2 more")
}

test_nobody_asks if {
	decision := said("request.create", {"principals": ["group:dev"], "source": "token"}, with_request({}))
	decision.reasons[_] == "nobody is known to be calling: sign in as a person or a workload"
	said("request.create", {"subject": "group:dev", "principals": []}, with_request({"requester": "group:dev"})).allowed == false
	group := said("request.withdraw", {"subject": "group:dev", "principals": ["group:daypass-admins"]}, with_request({}))
	group.reasons == ["nobody is known to be calling: sign in as a person or a workload"]
}

test_nobody_asks_in_the_name_of_another if {
	refused("request.create", bob, with_request({}), "user:bob may not ask for orders-db on behalf of others; user:alice can ask")
	refused("request.create", lena, with_request({}), "on behalf of others")
}

test_some_ask_for_others_who_are_eligible_by_their_own_name if {
	for_zoe := {"requester": "user:hank", "requester_principals": hank.principals, "subject": "user:zoe"}
	allowed("request.create", hank, with_request(for_zoe))
	for_alice := object.union(for_zoe, {"subject": "user:alice", "subject_principals": ["user:alice", "group:dev"]})
	refused("request.create", hank, with_request(for_alice), "user:alice is not eligible")

	# The group of who asks makes nobody else eligible.
	helper := {"subject": "user:hank", "principals": ["user:hank", "group:helpdesk", "group:dev"]}
	for_mallory := {"requester": "user:hank", "requester_principals": helper.principals, "subject": "user:mallory"}
	refused("request.create", helper, with_request(for_mallory), "user:mallory is not eligible")
	refused("request.create", lena, with_request(object.union(for_zoe, {"requester": "user:lena"})), "on behalf of others")
	refused("request.create", hank, with_request(object.union(for_zoe, {"requester": "user:zoe"})), "on behalf of others")
}

test_access_is_for_persons if {
	nobody := said("request.create", alice, about(object.remove(request, ["subject"]), entitlement))
	nobody.reasons[_] == "access is for a person or a workload, not for a group: its members ask one by one"
	for_group := {"requester": "user:hank", "requester_principals": hank.principals, "subject": "group:dev"}
	refused("request.create", hank, with_request(for_group), "not for a group")
	workload := {"subject": "workload:spiffe://td/x", "principals": ["workload:spiffe://td/x", "group:dev"]}
	allowed("request.create", workload, with_request({
		"requester": workload.subject,
		"requester_principals": workload.principals,
		"subject": workload.subject,
	}))
}

test_what_is_not_there_cannot_be_asked_for if {
	gone := {"request": object.union(request, {"entitlement": "gone"})}
	refused("request.create", alice, gone, "no entitlement gone any more")
	count(said("request.create", {}, gone).reasons) == 2
	extension := said("grant.extend", alice, {"grant": object.union(grant, {"entitlement": "lost"}), "request": object.remove(request, ["entitlement"])})
	some other in extension.reasons
	contains(other, "no entitlement lost any more")
	nameless := said("request.create", alice, {})
	some third in nameless.reasons
	contains(third, "no entitlement of this name any more")
}

test_a_justification_is_asked_for if {
	every text in ["", "short", "         x         ", "\t\n          "] {
		refused("request.create", alice, with_request({"justification": text}), "at least 10 characters")
	}
	allowed("request.create", alice, with_request({"justification": "exactly 10"}))
	allowed("request.create", alice, about(
		object.union(request, {"justification": ""}),
		object.union(entitlement, {"justification": {"required": false, "min_length": 10}}),
	))
	none := object.union(entitlement, {"justification": {"required": true, "min_length": 0}})
	refused("request.create", alice, about(object.union(request, {"justification": " "}), none), "say why")
	missing := object.remove(request, ["justification"])
	refused("request.create", alice, about(missing, entitlement), "say why")
}

test_a_ticket_is_asked_for if {
	pattern := {"required": true, "pattern": "OPS-[0-9]+", "anchored": `\A(?:OPS-[0-9]+)\z`}
	asks := object.union(entitlement, {"ticket": pattern})
	allowed("request.create", alice, about(object.union(request, {"ticket": "OPS-12"}), asks))
	every text in ["", "OPS-", "xOPS-12", "OPS-12x", "OPS-12\nOPS-13"] {
		refused("request.create", alice, about(object.union(request, {"ticket": text}), asks), "a ticket that matches OPS-[0-9]+")
	}
	allowed("request.create", alice, about(object.remove(request, ["ticket"]), entitlement))
	any := object.union(entitlement, {"ticket": {"required": true}})
	refused("request.create", alice, about(request, any), "name a ticket")
	refused("request.create", alice, about(object.remove(request, ["ticket"]), any), "name a ticket")
	allowed("request.create", alice, about(object.union(request, {"ticket": "T"}), any))
	anything := object.union(entitlement, {"ticket": {"required": true, "pattern": ".*", "anchored": `\A(?:.*)\z`}})
	refused("request.create", alice, about(request, anything), "name a ticket")
	optional := object.union(entitlement, {"ticket": object.union(pattern, {"required": false})})
	allowed("request.create", alice, about(request, optional))
	refused("request.create", alice, about(object.union(request, {"ticket": "T"}), optional), "matches OPS")
}

test_no_more_than_the_longest_time if {
	allowed("request.create", alice, with_request({"duration_s": 28800}))
	refused("request.create", alice, with_request({"duration_s": 28801}), "at most 8h: 8h1s is more than orders-db allows")
	refused("request.create", alice, with_request({"duration_s": 187200}), "2d4h is more")
	refused("request.create", alice, with_request({"duration_s": 0}), "more than 0 seconds")
	refused("request.create", alice, about(object.remove(request, ["duration_s"]), entitlement), "more than 0 seconds")
}

test_access_begins_soon if {
	allowed("request.create", alice, with_request({"not_before": "2026-01-08T00:00:00Z"}))
	refused("request.create", alice, with_request({"not_before": "2026-01-08T00:00:01Z"}), "at most 7d from now")
	refused("request.create", alice, with_request({"not_before": "someday"}), "at most 7d from now")
}

test_what_needs_nobody_is_approved_at_once if {
	decision := said("request.create", alice, with_entitlement({"approvals": 0, "approvers": []}))
	decision.allowed
	decision.approvals_required == 0
	decision.approve_within_s == 14400
	decision.note == "orders-db needs nobody's approval"
}

test_how_many_must_agree_is_known if {
	not allowed("request.create", alice, about(request, object.remove(entitlement, ["approvals"])))
	not allowed("request.create", alice, with_entitlement({"approvals": -1}))
}

# Deciding.

test_an_approver_approves if {
	decision := approving(bob, [bob], {}, {})
	decision.allowed
	decision.approvals_required == 1
	decision.approvals == {"user:bob"}
	approving(lena, [lena], {}, {}).approvals == {"user:lena"}
	approving(lena, [bob, lena], {}, {"approvals": 2}).approvals == {"user:bob", "user:lena"}
}

test_others_do_not_approve if {
	not_approving(mallory, [mallory], {}, {}, "user:mallory is no approver of orders-db; group:leads, user:bob decide")
	not_approving(root, [root], {}, {}, "no approver")
	no_caller := said("request.approve", {"principals": ["group:leads"]}, object.union(with_request({}), approval([lena])))
	no_caller.reasons[_] == "nobody is known to be calling: sign in as a person or a workload"
}

test_nobody_approves_their_own if {
	own := {"requester": "user:lena", "requester_principals": lena.principals, "subject": "user:lena"}
	not_approving(lena, [lena], own, {}, "nobody approves their own request")
	for_lena := {"requester": "user:hank", "requester_principals": hank.principals, "subject": "user:lena"}
	not_approving(lena, [lena], for_lena, {"eligible": ["user:lena"]}, "nobody approves their own")
	by_lena := {"requester": "user:lena", "requester_principals": lena.principals, "subject": "user:zoe"}
	not_approving(lena, [lena], by_lena, {}, "nobody approves their own")
	delegated := {"delegate": "user:lena"}
	not_approving(lena, [lena], delegated, {}, "nobody approves their own")
}

test_nobody_has_their_own_approved_by_who_acts_for_them if {
	agent := object.union(bob, {"delegate": "user:alice"})
	not_approving(agent, [bob], {}, {}, "nobody approves their own")
	bot := object.union(bob, {"delegate": "workload:bot"})
	not_approving(bot, [bob], {"delegate": "workload:bot"}, {}, "nobody approves their own")
	approving(bot, [bob], {"delegate": "workload:other"}, {}).allowed
}

test_one_actor_is_one_as_a_user_and_as_a_workload if {
	own := {"subject": "workload:a.svc", "principals": ["workload:a.svc", "group:leads"]}
	not_approving(own, [own], {"delegate": "user:a.svc"}, {}, "nobody approves their own")
	not_approving(own, [own], {"subject": "user:a.svc", "requester": "user:a.svc", "requester_principals": ["user:a.svc", "group:dev"]}, {}, "nobody approves their own")
	agent := object.union(bob, {"delegate": "workload:alice"})
	not_approving(agent, [bob], {}, {}, "nobody approves their own")
	again := {"subject": "workload:bob", "principals": ["workload:bob", "group:leads"]}
	not_approving(again, [bob, again], {}, {"approvals": 2}, "workload:bob has reviewed")
	approving(lena, [own, lena], {"delegate": "user:a.svc"}, {"approvals": 2}).approvals == {"user:lena"}

	# A group is nobody.
	approving(lena, [lena], {"delegate": "user:leads"}, {}).allowed
}

test_other_names_of_the_same_person_are_no_other_person if {
	two_names := {"subject": "user:al", "principals": ["user:al", "user:alice", "group:leads"]}
	not_approving(two_names, [two_names], {}, {}, "nobody approves their own")
	asked := {"requester_principals": ["user:alice", "user:lena", "group:dev"]}
	not_approving(lena, [lena], asked, {}, "nobody approves their own")

	# What both come through makes them no one person.
	through := {"subject": "user:bob", "principals": ["user:bob", "workload:gateway"]}
	approving(through, [through], {"requester_principals": ["user:alice", "group:dev", "workload:gateway"]}, {}).allowed
}

test_self_approval_may_be_allowed if {
	own := {"requester": "user:lena", "requester_principals": lena.principals, "subject": "user:lena"}
	decision := approving(lena, [lena], own, {"allow_self_approval": true})
	decision.allowed
	decision.approvals == {"user:lena"}
}

test_everybody_reviews_once if {
	not_approving(bob, [bob, bob], {}, {"approvals": 2}, "user:bob has reviewed this request already")
	second := {"subject": "user:bobby", "principals": ["user:bobby", "user:bob", "group:leads"]}
	not_approving(second, [bob, second], {}, {"approvals": 2}, "user:bobby has reviewed")
	not_approving(bob, [second, bob], {}, {"approvals": 2}, "user:bob has reviewed")
	two := object.union(with_request({}), approval([bob]))
	refused("request.deny", bob, two, "has reviewed this request already")

	# The review that is being made is the caller's.
	not_approving(bob, [lena], {}, {}, "has reviewed")
}

test_who_is_not_eligible_any_more_is_not_approved if {
	not_approving(bob, [bob], {}, {"eligible": ["user:zoe"]}, "user:alice is not eligible")
	not_approving(bob, [bob], {"subject": "group:dev", "requester": "user:hank"}, {"eligible": ["group:dev"]}, "not for a group")
}

test_what_is_too_long_by_now_is_approved_for_less if {
	not_approving(bob, [bob], {}, {"max_ttl_s": 1800}, "ask for at most 30m")
	narrowed := {"reviews": [object.union(review(bob, "approved"), {"duration_s": 1800})]}
	allowed("request.approve", bob, object.union(with_entitlement({"max_ttl_s": 1800}), narrowed))
}

test_what_is_gone_is_not_approved if {
	decision := said("request.approve", bob, object.union({"request": request}, approval([bob])))
	not decision.allowed
	decision.reasons[_] == "there is no entitlement orders-db any more; ask for one there is"
}

test_approvals_that_count if {
	gone := {"subject": "user:gone", "principals": ["user:gone", "group:old-leads"]}
	approving(lena, [gone, lena], {}, {"approvals": 2}).approvals == {"user:lena"}
	own := {"subject": "user:alice", "principals": ["user:alice", "group:leads"]}
	approving(lena, [own, lena], {}, {"approvals": 2}).approvals == {"user:lena"}
	by_bot := object.union(review(bob, "approved"), {"delegate": "user:alice"})
	mixed := {"reviews": [by_bot, review(lena, "approved")]}
	said("request.approve", lena, object.union(with_request({}), mixed)).approvals == {"user:lena"}
	denied := {"reviews": [review(bob, "denied"), review(lena, "approved")]}
	said("request.approve", lena, object.union(with_request({}), denied)).approvals == {"user:lena"}
}

test_an_approver_denies if {
	allowed("request.deny", bob, with_request({}))
	allowed("request.deny", lena, object.union(with_request({}), approval([bob])))
	allowed("request.deny", bob, object.union(with_request({}), {"reviews": [review(bob, "denied")]}))
	refused("request.deny", mallory, with_request({}), "is no approver of orders-db")
	refused("request.deny", root, with_request({}), "is no approver of orders-db")
	allowed("request.deny", root, {"request": request})
	said("request.deny", bob, {"request": request}).allowed == false
	said("request.deny", {"principals": ["group:leads"]}, with_request({})).allowed == false
}

test_who_may_take_a_request_back if {
	theirs := {"requester": "user:hank", "requester_principals": hank.principals, "subject": "user:zoe", "delegate": "workload:bot"}
	allowed("request.withdraw", hank, with_request(theirs))
	allowed("request.withdraw", {"subject": "user:zoe", "principals": ["user:zoe"]}, with_request(theirs))
	allowed("request.withdraw", {"subject": "workload:bot", "principals": ["workload:bot"]}, with_request(theirs))
	allowed("request.withdraw", root, with_request(theirs))
	refused("request.withdraw", lena, with_request(theirs), "only who asked")
	refused("request.withdraw", audrey, with_request(theirs), "only who asked")
}

# Beginning, extending and ending.

test_a_scheduled_grant_begins if {
	about_start := object.union(object.union(with_request({}), approval([bob])), {"grant": grant})
	decision := said("grant.start", {}, about_start)
	decision.allowed
	decision.approvals_required == 1
	decision.approvals == {"user:bob"}
	decision.ttl_s == 28800
	said("grant.start", {}, object.union(about_start, {"entitlement": object.union(entitlement, {"max_ttl_s": 600, "approvals": 0})})).ttl_s == 600
	without_caller := admission.decision with input as object.remove(question("grant.start", {}, about_start), ["caller"])
	without_caller.approvals == {"user:bob"}
}

test_a_scheduled_grant_whose_subject_is_not_eligible_any_more_does_not_begin if {
	refused("grant.start", {}, object.union(with_entitlement({"eligible": []}), {"grant": grant}), "not eligible")
	refused("grant.start", {}, {"request": request, "grant": grant}, "no entitlement orders-db any more")
	refused("grant.start", {}, object.union(with_entitlement({"eligible": []}), {"grant": direct}), "not eligible")
	refused("grant.start", {}, {}, "no entitlement of this name")
	group := object.union(with_request({"subject": "group:dev"}), {"grant": grant, "entitlement": object.union(entitlement, {"eligible": ["group:dev"]})})
	refused("grant.start", {}, group, "not for a group")
}

test_approvals_that_do_not_count_any_more_do_not_at_the_start if {
	changed := object.union(with_entitlement({"approvers": ["group:others"]}), approval([bob]))
	decision := said("grant.start", {}, object.union(changed, {"grant": grant}))
	decision.approvals == set()
	decision.approvals_required == 1
}

test_a_direct_grant_begins if {
	said("grant.start", {}, {"grant": direct}) == {"allowed": true, "approvals_required": 0, "note": "no entitlement asks for approval of this grant"}
}

extension(changes, entitlement_, grant_) := {
	"request": object.union(object.union(request, {"kind": "extension", "grant": "g1"}), changes),
	"entitlement": object.union(entitlement, entitlement_),
	"grant": object.union(grant, grant_),
}

test_a_grant_is_extended if {
	decision := said("grant.extend", alice, extension({}, {}, {}))
	decision.allowed
	decision.approvals_required == 1
	said("grant.extend", alice, extension({}, {"approvals": 0}, {})).note == "orders-db needs nobody's approval"
}

test_extensions_are_held_against_the_entitlement if {
	refused("grant.extend", alice, extension({}, {}, {"extensions": 1}), "extended at most 1 time(s)")
	allowed("grant.extend", alice, extension({"duration_s": 7200}, {}, {}))
	refused("grant.extend", alice, extension({"duration_s": 7201}, {}, {}), "lasts at most 10h, and this one has 8h")
	refused("grant.extend", alice, extension({}, {"max_total_ttl_s": 100000}, {"total_s": 86000}), "lasts at most 1d")
	refused("grant.extend", alice, extension({"justification": ""}, {}, {}), "say why")
	refused("grant.extend", alice, extension({}, {"ticket": {"required": true}}, {}), "name a ticket")
	refused("grant.extend", alice, extension({"duration_s": 3600}, {"max_ttl_s": 1800}, {}), "at most 30m")
	refused("grant.extend", alice, extension({}, {"eligible": ["user:zoe"]}, {}), "not eligible")
	refused("grant.extend", alice, extension({}, {}, {"subject": "user:zoe"}), "not one of user:alice")
	refused("grant.extend", bob, extension({}, {}, {}), "on behalf of others")
	groups := extension({"subject": "group:dev", "requester": "user:hank"}, {"eligible": ["group:dev"]}, {"subject": "group:dev"})
	refused("grant.extend", hank, groups, "not for a group")
	nobody := said("grant.extend", {"principals": ["group:dev"]}, extension({}, {}, {}))
	nobody.reasons[_] == "nobody is known to be calling: sign in as a person or a workload"
}

approve(entitlement_, grant_) := said(
	"request.approve",
	bob,
	object.union(extension({}, entitlement_, grant_), approval([bob])),
)

test_an_extension_is_approved_only_while_it_fits if {
	approve({}, {}).allowed
	other := object.union(extension({"kind": "other"}, {}, {}), approval([bob]))
	said("request.approve", bob, other).allowed == false
	approve({}, {"extensions": 1}).reasons == ["a grant of orders-db is extended at most 1 time(s); ask for access again"]
	approve({}, {"total_s": 33000}).reasons[0] == "with all extensions a grant of orders-db lasts at most 10h, and this one has 9h10m; ask for access again"
}

test_an_extension_fits_as_reviewers_narrow_it if {
	narrowed := {"reviews": [object.union(review(bob, "approved"), {"duration_s": 1800})]}
	about_it := object.union(extension({}, {}, {"total_s": 34200}), narrowed)
	allowed("request.approve", bob, about_it)
	longer := {"reviews": [object.union(review(bob, "approved"), {"duration_s": 1801})]}
	refused("request.approve", bob, object.union(about_it, longer), "lasts at most 10h")
}

test_administrators_extend_what_has_no_entitlement if {
	decision := said("grant.extend", root, {"grant": direct, "request": {"duration_s": 3600}})
	decision == {"allowed": true, "approvals_required": 0, "note": "no entitlement asks for approval of this grant"}
	refused("grant.extend", alice, {"grant": direct, "request": {"duration_s": 3600}}, "only administrators")
	refused("grant.extend", root, {"grant": direct, "request": {"duration_s": 86400}}, "lasts at most 1d")
	refused("grant.extend", root, {"grant": direct, "request": {"duration_s": 0}}, "more than 0 seconds")
	refused("grant.extend", root, {"grant": grant, "request": {"duration_s": 3600}}, "no entitlement orders-db any more")
	refused("grant.extend", root, {"request": {"duration_s": 3600}}, "no entitlement")
}

test_administrators_create_grants_and_locks if {
	every action in ["grant.create", "lock.create", "lock.delete"] {
		allowed(action, root, {})
		refused(action, lena, {"entitlement": entitlement}, "only administrators may do this; they are group:daypass-admins")
		refused(action, audrey, {}, "only administrators")
	}
}

test_who_may_end_a_grant if {
	ending := {"grant": object.union(grant, {"requester": "user:hank"}), "entitlement": entitlement}
	allowed("grant.revoke", root, ending)
	said("grant.revoke", bob, ending) == {"allowed": true}
	allowed("grant.revoke", hank, ending)
	refused("grant.revoke", mallory, ending, "only administrators (group:daypass-admins)")
	refused("grant.revoke", audrey, ending, "only administrators")
	said("grant.revoke", {"principals": ["group:leads"]}, ending).allowed == false
}

test_who_may_give_a_grant_back if {
	allowed("grant.relinquish", alice, {"grant": object.union(grant, {"requester": "user:hank"})})
	allowed("grant.relinquish", hank, {"grant": object.union(grant, {"requester": "user:hank"})})
	refused("grant.relinquish", bob, {"grant": grant}, "only the grant's own subject")
	refused("grant.relinquish", root, {"grant": grant}, "only the grant's own subject")
	group := object.union(grant, {"subject": "group:dev", "requester": "user:root"})
	refused("grant.relinquish", alice, {"grant": group}, "only the grant's own subject")
	said("grant.relinquish", {"principals": ["user:alice"]}, {"grant": grant}).allowed == false
}

test_who_may_end_many if {
	allowed("grant.revoke_all", root, {"target": {"everything": true}})
	allowed("grant.revoke_all", alice, {"target": {"principal": "user:alice"}})
	refused("grant.revoke_all", alice, {"target": {"principal": "group:dev"}}, "only administrators may end the grants of others")
	refused("grant.revoke_all", alice, {"target": {"principal": "user:bob"}}, "only administrators")
	refused("grant.revoke_all", lena, {"target": {"entitlement": "orders-db"}, "entitlement": entitlement}, "only administrators")
	said("grant.revoke_all", {"principals": ["user:alice"]}, {"target": {"principal": "user:alice"}}).allowed == false
}

# Emergencies.

emergency(changes) := {
	"request": object.union({"requester": "user:olga", "subject": "user:olga", "justification": "the site is down"}, changes),
	"entitlement": entitlement,
}

test_the_glass_is_broken_by_who_may if {
	said("break_glass", olga, emergency({})) == {"allowed": true, "ttl_s": 3600}
	said("break_glass", olga, emergency({"duration_s": 600})).ttl_s == 600
	said("break_glass", olga, emergency({"duration_s": 7200})).ttl_s == 3600
	allowed("break_glass", olga, {"request": {"justification": "the site is down"}, "entitlement": entitlement})
	refused("break_glass", alice, emergency({"subject": "user:alice"}), "user:alice may not break the glass for orders-db; group:oncall may")
	refused("break_glass", root, emergency({"subject": "user:root"}), "may not break the glass")
	refused("break_glass", olga, emergency({"subject": "user:alice"}), "for themselves alone")
	refused("break_glass", olga, emergency({"justification": "down     "}), "say what happened, in at least 10 characters")
	refused("break_glass", olga, emergency({"duration_s": 0}), "more than 0 seconds")
	not said("break_glass", olga, {"request": {"justification": "the site is down"}}).allowed
	nameless := said("break_glass", {"principals": ["group:oncall"]}, {"request": {"justification": "the site is down"}, "entitlement": entitlement})
	nameless.allowed == false
}

test_what_is_gone_has_no_glass if {
	decision := said("break_glass", olga, {
		"request": {"justification": "the site is down"},
		"entitlement": object.remove(entitlement, ["name"]),
	})
	decision.reasons[_] == "there is no entitlement of this name any more; ask for one there is"
}

# Seeing.

sees(action, callers, others, more) if {
	every caller in callers {
		allowed(action, caller, more)
	}
	every caller in others {
		refused(action, caller, more, "is seen by those who have to do with it, administrators and auditors")
	}
}

zoe := {"subject": "user:zoe", "principals": ["user:zoe"]}

bot := {"subject": "workload:bot", "principals": ["workload:bot"]}

rita := {"subject": "user:rita", "principals": ["user:rita"]}

test_who_sees_a_request if {
	theirs := {"requester": "user:hank", "requester_principals": hank.principals, "subject": "user:zoe", "delegate": "workload:bot"}
	about_it := object.union(with_request(theirs), {"reviews": [review(rita, "approved")]})
	sees("request.view", [hank, zoe, bot, rita, bob, lena, root, audrey], [alice, mallory, olga], about_it)
	sees("request.view", [hank, root, audrey], [bob, lena], {"request": object.union(request, theirs)})
}

test_who_sees_a_grant if {
	about_it := {"grant": object.union(grant, {"requester": "user:hank"}), "entitlement": entitlement}
	sees("grant.view", [alice, hank, bob, lena, root, audrey], [mallory, olga, zoe], about_it)
	sees("grant.view", [alice, lena, root], [bob, hank], {"grant": object.union(direct, {"subject": "group:dev"})})
}

test_who_sees_an_entitlement if {
	sees("entitlement.view", [alice, zoe, bob, lena, hank, olga, root, audrey], [mallory, rita], {"entitlement": entitlement})
}

test_who_sees_a_lock if {
	sees("lock.view", [alice, root, audrey], [bob, mallory], {"target": {"principal": "user:alice"}})
	sees("lock.view", [alice, lena], [bob], {"target": {"principal": "group:dev"}})
	sees("lock.view", [mallory, bob], [], {"target": {"everything": true}})
	sees("lock.view", [alice, bob, root], [mallory], {"target": {"entitlement": "orders-db"}, "entitlement": entitlement})
	sees("lock.view", [root], [alice], {"target": {}, "entitlement": entitlement})
}

test_who_sees_an_event if {
	event := {"event": {"actor": "user:hank", "subject": "user:zoe", "type": "request.created"}}
	sees("event.view", [hank, zoe, root, audrey], [alice, bob], event)
	sees("event.view", [alice], [bob], {"event": {"actor": "user:hank", "subject": "group:dev"}})
	sees("event.view", [root], [alice], {"event": {"actor": "group:dev"}})
	sees("event.view", [alice, bob], [mallory], object.union({"event": {}}, with_request({})))
	sees("event.view", [alice, bob], [mallory], {"event": {}, "grant": grant, "entitlement": entitlement})
	sees("event.view", [alice], [mallory, bob], {"event": {}, "request": request})
	sees("event.view", [alice], [mallory, bob], {"event": {}, "grant": object.remove(grant, ["requester"])})
}

test_who_sees_how_others_stand if {
	allowed("access.explain", root, {"target": {"principal": "user:alice"}})
	allowed("access.explain", audrey, {"target": {"principal": "user:alice"}})
	allowed("access.explain", alice, {"target": {"principal": "group:dev"}})
	refused("access.explain", lena, {"target": {"principal": "user:alice"}}, "only administrators and auditors")
}

# Everything else.

test_unknown_actions_are_refused if {
	refused("request.destroy", root, with_request({}), "knows no action request.destroy")
	not admission.decision with input as {}
}

test_what_has_no_words_is_refused_all_the_same if {
	unlimited := object.remove(question("request.create", alice, with_request({"not_before": "2027-01-01T00:00:00Z"})), ["limits"])
	decision := admission.decision with input as unlimited
	decision == {"allowed": false, "reasons": ["the requirement start does not hold"]}
}
