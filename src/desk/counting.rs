//! How many persons agree. Pure.

use std::collections::BTreeSet;

use super::model::{Decision, Review};

/// Those whose approval counts, once each, in the order they agreed: policy says whose counts, and here no person counts
/// twice, be it under its own name or through somebody who acts for several.
#[must_use]
pub fn persons<'r>(reviews: &'r [Review], counting: &BTreeSet<String>) -> Vec<&'r str> {
    let mut seen = BTreeSet::new();
    let mut persons = Vec::new();
    for Review { reviewer, decision, .. } in reviews {
        if *decision != Decision::Approved || !counting.contains(&reviewer.name) {
            continue;
        }
        let names: Vec<&str> = [Some(&reviewer.name), reviewer.delegate.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        if names.iter().any(|name| seen.contains(name)) {
            continue;
        }
        seen.extend(names);
        persons.push(reviewer.name.as_str());
    }
    persons
}

#[cfg(test)]
mod tests {
    use super::super::model::Party;
    use super::*;

    fn review(name: &str, delegate: Option<&str>, decision: Decision) -> Review {
        let reviewer = Party {
            name: name.to_owned(),
            principals: vec![name.to_owned()],
            delegate: delegate.map(str::to_owned),
        };
        Review {
            reviewer,
            decision,
            reason: String::new(),
            time: jiff::Timestamp::UNIX_EPOCH,
            duration: None,
        }
    }

    #[test]
    fn a_person_counts_once_and_only_if_policy_says_so() {
        use Decision::{Approved, Denied};
        let counting: BTreeSet<String> = ["user:a", "user:b", "user:c"].map(str::to_owned).into();
        for (reviews, expected) in [
            (vec![], vec![]),
            (
                vec![review("user:a", None, Approved), review("user:b", None, Approved)],
                vec!["user:a", "user:b"],
            ),
            (vec![review("user:a", None, Approved), review("user:a", None, Approved)], vec!["user:a"]),
            (vec![review("user:x", None, Approved), review("user:b", None, Denied)], vec![]),
            // One agent for two persons is one, and so is an agent that also agrees in its own name.
            (
                vec![review("user:a", Some("user:z"), Approved), review("user:b", Some("user:z"), Approved)],
                vec!["user:a"],
            ),
            (
                vec![review("user:a", Some("user:b"), Approved), review("user:b", None, Approved)],
                vec!["user:a"],
            ),
        ] {
            assert_eq!(persons(&reviews, &counting), expected);
        }
    }
}
