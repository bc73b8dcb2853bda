//! The one pattern language of grants: `*` within a label, `**` across labels, nothing else special.

/// A pattern and the byte that ends its labels (`.` in hosts, `/` in paths).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glob<'a> {
    pattern: &'a str,
    separator: u8,
}

/// Steps after which a text does not match. Patterns of people take some times the length of the text; only a pattern
/// made to be slow, on a text made for it, takes more.
const MAX_STEPS: usize = 4_000_000;

/// Where matching may resume: a star, and the first byte of the text it has not taken yet.
#[derive(Clone, Copy)]
struct Resume {
    after_star: usize,
    text: usize,
}

impl<'a> Glob<'a> {
    #[must_use]
    pub const fn new(pattern: &'a str, separator: u8) -> Self {
        Self { pattern, separator }
    }

    /// Greedy matching with two resume points, the last `**` and the last `*` behind it. Earlier stars need no second
    /// try: a `**` takes whatever they would have given up, and a `*` cannot cross the separator that ends its label.
    #[must_use]
    pub fn matches(self, text: &str) -> bool {
        let (pattern, text) = (self.pattern.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        let mut within: Option<Resume> = None;
        let mut across: Option<Resume> = None;
        for _ in 0..MAX_STEPS {
            if pattern[p..].starts_with(b"**") {
                // A run of three or more stars means the same as two.
                p += pattern[p..].iter().take_while(|byte| **byte == b'*').count();
                across = Some(Resume { after_star: p, text: t });
                within = None;
                continue;
            }
            match (pattern.get(p), text.get(t)) {
                (Some(b'*'), _) => {
                    p += 1;
                    within = Some(Resume { after_star: p, text: t });
                    continue;
                }
                (Some(expected), Some(found)) if expected == found => {
                    p += 1;
                    t += 1;
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            let Some((resumed_p, resumed_t)) = self.resume(text, &mut within, &mut across) else {
                return false;
            };
            (p, t) = (resumed_p, resumed_t);
        }
        false
    }

    /// Lets the nearest star that can take one more byte do so.
    fn resume(
        self,
        text: &[u8],
        within: &mut Option<Resume>,
        across: &mut Option<Resume>,
    ) -> Option<(usize, usize)> {
        let mut blocked = None;
        if let Some(star) = within {
            if text.get(star.text).is_some_and(|byte| *byte != self.separator) {
                star.text += 1;
                return Some((star.after_star, star.text));
            }
            blocked = Some(*star);
            *within = None;
        }
        let star = across.as_mut()?;
        star.text += 1;
        if let Some(blocked) = blocked {
            // What follows the `*` matches nowhere up to the end of this label. So the `**` has to take so much that
            // the `*` begins in a later one, or the two stars would try every pair of places.
            let between = &self.pattern.as_bytes()[star.after_star..blocked.after_star - 1];
            if !between.contains(&b'*') {
                star.text = star.text.max((blocked.text + 1).saturating_sub(between.len()));
            }
        }
        (star.text <= text.len()).then_some((star.after_star, star.text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, as a regular expression.
    fn oracle(pattern: &str, separator: char) -> regex::Regex {
        let mut expression = String::from("(?s)^");
        let mut rest = pattern;
        while let Some(first) = rest.chars().next() {
            if rest.starts_with("**") {
                expression.push_str(".*");
                rest = rest.trim_start_matches('*');
            } else if first == '*' {
                expression.extend(["[^", &regex::escape(&separator.to_string()), "]*"]);
                rest = &rest[1..];
            } else {
                expression.push_str(&regex::escape(&first.to_string()));
                rest = &rest[first.len_utf8()..];
            }
        }
        expression.push('$');
        regex::Regex::new(&expression).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6_000))]
        #[test]
        fn matches_what_the_definition_matches(pattern in "[ab/*]{0,14}", text in "[ab/]{0,16}") {
            let glob = Glob::new(&pattern, b'/');
            prop_assert_eq!(glob.matches(&text), oracle(&pattern, '/').is_match(&text), "{} on {}", pattern, text);
        }
    }

    #[test]
    fn two_stars_do_not_try_every_pair_of_places() {
        let started = std::time::Instant::now();
        for pattern in ["**x*y", "**x*y*z", "/**report-*.pdf", "**a*a*a*b"] {
            for word in ["x", "report-", "a", "/x"] {
                assert!(
                    !Glob::new(pattern, b'/').matches(&word.repeat(60_000 / word.len())),
                    "{pattern} {word}"
                );
            }
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
        assert!(Glob::new("**x*y", b'/').matches(&format!("{}/xay", "x".repeat(60_000))));
    }

    #[test]
    fn many_stars_do_not_explode() {
        assert!(!Glob::new(&"**a".repeat(600), b'/').matches(&"a".repeat(599)));
        assert!(!Glob::new(&("*a".repeat(600) + "b"), b'/').matches(&"a".repeat(8000)));
    }
}
