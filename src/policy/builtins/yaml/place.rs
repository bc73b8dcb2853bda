//! Where in a file a value is written, for messages. Reads no values, follows no aliases.

use saphyr_parser::{Event, Parser};

/// One part of the way to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

/// How many parts of the way were found, and where the last of them is, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub parts: usize,
    pub line: u32,
    pub column: u32,
}

enum Open {
    /// With the index of its next item.
    Sequence(usize),
    /// Whether a key comes next.
    Mapping(bool),
}

/// The last part of `path` that the text has. JSON is YAML for this purpose.
#[must_use]
pub fn place(text: &str, path: &[Step<'_>]) -> Option<Place> {
    let mut open: Vec<Open> = Vec::new();
    // Containers that are open and on the way; the others are passed over.
    let mut on_way = 0;
    // Parts of the path that were found.
    let mut matched = 0;
    let mut found = None;
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        let (line, column) =
            (u32::try_from(span.start.line()).ok()?, u32::try_from(span.start.col() + 1).ok()?);
        let here = |parts| Some(Place { parts, line, column });
        let is_on_way = open.len() == on_way;
        let mut is_wanted = open.is_empty();
        let is_end = matches!(event, Event::SequenceEnd | Event::MappingEnd);
        let is_node = matches!(
            event,
            Event::Scalar(..) | Event::Alias(_) | Event::SequenceStart(..) | Event::MappingStart(..)
        );
        if is_node {
            match open.last_mut() {
                Some(Open::Sequence(next)) => {
                    if is_on_way && path.get(matched) == Some(&Step::Index(*next)) {
                        (matched, found, is_wanted) = (matched + 1, here(matched + 1), true);
                    }
                    *next += 1;
                }
                Some(Open::Mapping(is_key)) => {
                    if *is_key {
                        let is_named = matches!((&event, path.get(matched)),
                            (Event::Scalar(key, ..), Some(Step::Name(name))) if key == name);
                        if is_on_way && is_named {
                            (matched, found) = (matched + 1, here(matched + 1));
                        }
                    } else {
                        is_wanted = is_on_way && matched == on_way;
                    }
                    *is_key = !*is_key;
                }
                None => {}
            }
        }
        if matched == path.len() {
            return found;
        }
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if is_wanted && on_way == open.len() {
                    on_way += 1;
                }
                let is_mapping = matches!(event, Event::MappingStart(..));
                open.push(if is_mapping { Open::Mapping(true) } else { Open::Sequence(0) });
            }
            Event::DocumentEnd => break,
            _ if is_end => {
                // The whole of what was on the way was seen.
                if is_on_way && on_way > 0 {
                    break;
                }
                open.pop();
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::Step::{Index, Name};
    use super::*;

    #[test]
    fn finds_the_last_part_that_is_there() {
        let text = "# c\ndaypass:\n  other: {a: {max_ttl: 1}}\n  entitlements:\n    b:\n      max_ttl: 1h\n    a:\n      \
                    x: [{max_ttl: 2}]\n      eligible:\n        - one\n        - two\n      max_ttl: 2h\n";
        let at_line =
            |text: &str, path: &[Step<'_>]| place(text, path).map(|found| (found.line, found.column));
        let at =
            |path: &[Step<'_>]| at_line(text, &[&[Name("daypass"), Name("entitlements")], path].concat());
        assert_eq!(at(&[Name("a"), Name("max_ttl")]), Some((12, 7)));
        assert_eq!(at(&[Name("b"), Name("max_ttl")]), Some((6, 7)));
        assert_eq!(at(&[Name("a"), Name("eligible"), Index(1)]), Some((11, 11)));
        assert_eq!(at(&[Name("b"), Name("approvers")]), Some((5, 5)), "the nearest there is");
        assert_eq!(at(&[Name("c")]), Some((4, 3)));
        let json = r#"{"daypass": {"entitlements": {"e":
            {"permissions": [{"hosts": []}, {"hosts": ["x"]}]}}}}"#;
        let path = ["daypass", "entitlements", "e", "permissions"]
            .map(Name)
            .into_iter()
            .chain([Index(1), Name("hosts")]);
        assert_eq!(at_line(json, &path.collect::<Vec<_>>()), Some((2, 46)));
        assert_eq!(place("[", &[Name("x")]), None);
        assert_eq!(at_line("a: &x [*x, *x]\n", &[Name("a"), Index(1), Name("b")]), Some((1, 12)));
    }
}
