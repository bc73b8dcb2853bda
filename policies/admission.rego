package daypass.admission

decision := {"allowed": false, "reasons": ["not yet"]}
