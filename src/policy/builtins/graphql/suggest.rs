//! "Did you mean": names near to one that is not known, as OPA's messages list them.

/// Names longer than this are nobody's typing error, and distance takes time by the product of lengths.
const MAX_CHARS: usize = 64;
const MAX_SHOWN: usize = 5;
/// Names that are looked at.
const MAX_NAMES: usize = 5000;

/// ` Did you mean "a" or "b"?`, or nothing.
pub fn did_you_mean<'n>(prefix: &str, typed: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    listed(prefix, &near(typed, names).into_iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>())
}

pub fn listed(prefix: &str, names: &[String]) -> String {
    let shown = names.get(..MAX_SHOWN).unwrap_or(names);
    match shown {
        [] => String::new(),
        [one] => format!(" {prefix} {one}?"),
        [one, other] => format!(" {prefix} {one} or {other}?"),
        [first @ .., last] => format!(" {prefix} {}, or {last}?", first.join(", ")),
    }
}

/// The nearest first.
fn near<'n>(typed: &str, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    if typed.len() > MAX_CHARS {
        return Vec::new();
    }
    let threshold = typed.len() * 2 / 5 + 1;
    let mut found: Vec<(usize, &str)> = names
        .into_iter()
        .take(MAX_NAMES)
        .filter(|name| name.len().abs_diff(typed.len()) <= threshold)
        .map(|name| (distance(typed, name), name))
        .filter(|(distance, _)| *distance <= threshold)
        .collect();
    found.sort_by_key(|(distance, _)| *distance);
    found.into_iter().map(|(_, name)| name).collect()
}

/// Edits from one to the other; a difference in case only is one.
fn distance(a: &str, b: &str) -> usize {
    if a == b {
        return 0;
    }
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    if a == b {
        return 1;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, from) in a.chars().enumerate() {
        let mut left = index + 1;
        let mut next = vec![left];
        for (pair, to) in row.windows(2).zip(&b) {
            let [diagonal, above] = pair else { continue };
            let replaced = diagonal + usize::from(from != *to);
            left = replaced.min(left + 1).min(above + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_listed() {
        assert_eq!(
            did_you_mean("Did you mean", "nmae", ["name", "id", "Name"]),
            " Did you mean \"name\" or \"Name\"?"
        );
        assert_eq!(did_you_mean("Did you mean", "nothing", ["id"]), "");
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("A", "a"), 1);
        assert_eq!(distance("", "ab"), 2);
    }
}
