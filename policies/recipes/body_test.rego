package envoy.authz

decision(body, truncated, covering) := value if {
	value := allow with input as {"parsed_body": body, "truncated_body": truncated, "jit": {"covering": covering}}
		with data.limit as 100
}

grant := {"id": "g-1", "attributes": {"max_amount": 5000}}

test_small_amounts_pass if decision({"amount": 100}, false, []).grants == []

test_large_amounts_need_a_grant_that_is_large_enough if {
	decision({"amount": 101}, false, []) == false
	decision({"amount": 5000}, false, [grant]).grants == ["g-1"]
	decision({"amount": 5001}, false, [grant]) == false
}

test_what_cannot_be_read_does_not_pass if {
	decision(null, true, [grant]) == false
	decision({"amount": "100"}, false, [grant]) == false
	decision({"amount": -1}, false, [grant]) == false
	decision({}, false, [grant]) == false
	decision([1], false, [grant]) == false
}
