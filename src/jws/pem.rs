//! PEM as Go's decoder finds it: a block may stand anywhere in a text, and what is no whole block is passed over.

use super::base64;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Beginnings without an end that are passed over. Each may be looked at up to the end of the text.
const MAX_FALSE_STARTS: usize = 32;

#[derive(Debug, PartialEq, Eq)]
pub struct Block<'t> {
    pub label: &'t str,
    pub bytes: Vec<u8>,
}

impl<'t> Block<'t> {
    /// The first block of a text, and the text behind it.
    pub fn first(text: &'t str) -> Option<(Self, &'t str)> {
        let mut rest = text;
        for _ in 0..=MAX_FALSE_STARTS {
            rest = after_line_start(rest, BEGIN)?;
            let (first_line, body) = line(rest);
            if let Some(label) = first_line.strip_suffix(DASHES)
                && let Some(found) = finish(label, body)
            {
                return Some(found);
            }
        }
        None
    }
}

/// What follows `marker` where it begins a line.
fn after_line_start<'t>(text: &'t str, marker: &str) -> Option<&'t str> {
    if let Some(rest) = text.strip_prefix(marker) {
        return Some(rest);
    }
    text.match_indices(marker)
        .find(|(at, _)| text[..*at].ends_with('\n'))
        .map(|(at, _)| &text[at + marker.len()..])
}

/// The first line without its end and trailing blanks, and the rest.
fn line(text: &str) -> (&str, &str) {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    (line.trim_end_matches([' ', '\t', '\r']), rest)
}

fn finish<'t>(label: &'t str, mut body: &'t str) -> Option<(Block<'t>, &'t str)> {
    // Headers, such as those of an encrypted key.
    while let (header, rest) = line(body)
        && !header.starts_with(DASHES)
        && header.contains(':')
    {
        body = rest;
    }
    let (content, tail) = if let Some(tail) = body.strip_prefix(END) {
        ("", tail)
    } else {
        let at = body.match_indices(END).find(|(at, _)| body[..*at].ends_with('\n'))?.0;
        (&body[..at], &body[at + END.len()..])
    };
    let tail = tail.strip_prefix(label)?.strip_prefix(DASHES)?;
    let (after_end, rest) = line(tail);
    if !after_end.is_empty() {
        return None;
    }
    let symbols: String = content.chars().filter(|c| !matches!(c, ' ' | '\t')).collect();
    let bytes = base64::standard(&symbols).ok()?;
    Some((Block { label, bytes }, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_has_a_block_or_none(
            parts in prop::collection::vec("-----BEGIN |-----END |A|-----|\n|:|YQ==|é| ", 0..24)
        ) {
            let text = parts.concat();
            if let Some((_, rest)) = Block::first(&text) {
                prop_assert!(text.ends_with(rest));
            }
        }
    }

    #[test]
    fn finds_whole_blocks_wherever_they_stand() {
        let block = "-----BEGIN A-----\nYQ==\n-----END A-----\n";
        let found = |text: &str| Block::first(text).map(|(block, rest)| (block.bytes, rest.to_owned()));
        assert_eq!(found(block), Some((b"a".to_vec(), String::new())));
        assert_eq!(found(&format!("words\n{block}x")), Some((b"a".to_vec(), "x".to_owned())));
        assert_eq!(found(&format!("-----BEGIN B-----\n\n{block}")), Some((b"a".to_vec(), String::new())));
        let with_header = "-----BEGIN A-----\r\nProc-Type: 4\r\n\r\nYQ==\r\n-----END A-----";
        assert_eq!(found(with_header), Some((b"a".to_vec(), String::new())));
        for broken in [
            "",
            "-----BEGIN ",
            "-----BEGIN A-----",
            "-----BEGIN A-----\n-----END B-----",
            "-----BEGIN A-----\nYQ==-----END A-----",
            "-----BEGIN A-----\n!\n-----END A-----",
            " -----BEGIN A-----\nYQ==\n-----END A-----",
        ] {
            assert_eq!(found(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn beginnings_without_end_cost_no_more_than_a_few_looks() {
        assert!(Block::first(&"-----BEGIN A-----\n".repeat(200_000)).is_none());
    }
}
