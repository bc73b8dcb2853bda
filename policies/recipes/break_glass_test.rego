package envoy.authz

glass := {"id": "g-glass", "break_glass": true, "justification": "INC-7: database down"}

decision(path, grants, covering) := value if {
	value := allow with input as {"parsed_path": path, "jit": {"grants": grants, "covering": covering}}
}

test_an_emergency_opens_what_no_grant_covers if {
	value := decision(["db"], [glass], [])
	value.grants == ["g-glass"]
	value.dynamic_metadata.break_glass
	value.headers["x-break-glass"] == "INC-7: database down"
}

test_an_ordinary_grant_comes_first if decision(["db"], [glass], [{"id": "g-1"}]).grants == ["g-1"]

test_some_things_stay_shut if decision(["keys"], [glass], [{"id": "g-1"}]) == false

test_without_either_nothing_opens if decision(["db"], [{"id": "g-2"}], []) == false
