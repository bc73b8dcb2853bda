package envoy.authz

decision(principal, method, target) := value if {
	value := allow with input as {"attributes": {
		"source": {"principal": principal},
		"request": {"http": {"method": method, "path": target}},
	}}
		with data.callers as {"spiffe://td/ns/prod/sa/orders": {"GET": ["/stock", "/stock/**"]}}
}

orders := "spiffe://td/ns/prod/sa/orders"

test_listed_calls_pass if {
	decision(orders, "GET", "/stock").allowed
	decision(orders, "GET", "/stock/7/parts?all=1").allowed
}

test_nothing_else_does if {
	decision(orders, "POST", "/stock") == false
	decision(orders, "GET", "/stocks") == false
	decision("spiffe://td/ns/prod/sa/other", "GET", "/stock") == false
	decision("", "GET", "/stock") == false
}

test_paths_that_can_be_read_in_two_ways_do_not_pass if {
	every target in ["/stock/../admin", "/stock//x", "/stock/%2e%2e/admin", `/stock\..\admin`] {
		decision(orders, "GET", target) == false
	}
}
