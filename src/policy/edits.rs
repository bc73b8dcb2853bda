//! Text with parts replaced, which still knows where each part came from: positions in messages are those of the file
//! that somebody wrote.

/// `replaces` bytes at `at` give way to `insert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub at: usize,
    pub replaces: usize,
    pub insert: String,
}

impl Edit {
    #[must_use]
    pub fn insert(at: usize, text: impl Into<String>) -> Self {
        Self { at, replaces: 0, insert: text.into() }
    }

    #[must_use]
    pub fn replace(from: usize, to: usize, text: impl Into<String>) -> Self {
        Self { at: from, replaces: to.saturating_sub(from), insert: text.into() }
    }
}

/// A text and the edits that made it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edited {
    pub text: String,
    before: String,
    edits: Vec<Edit>,
}

impl Edited {
    /// `None` if edits overlap, which is a mistake of whoever made them.
    #[must_use]
    pub fn new(before: &str, mut edits: Vec<Edit>) -> Option<Self> {
        // What ends at a place comes before what begins there. Stable beyond that, so that of two calls opened at one
        // place the outer one, found first, stays in front.
        edits.sort_by_key(|edit| (edit.at, edit.replaces));
        edits.dedup_by(|b, a| a == b && a.replaces > 0);
        let mut text = String::with_capacity(before.len() + edits.len() * 16);
        let mut copied = 0;
        for edit in &edits {
            text.push_str(before.get(copied..edit.at)?);
            text.push_str(&edit.insert);
            copied = edit.at + edit.replaces;
        }
        text.push_str(before.get(copied..)?);
        Some(Self { text, before: before.to_owned(), edits })
    }

    #[must_use]
    pub fn unchanged(text: String) -> Self {
        Self { before: text.clone(), text, edits: Vec::new() }
    }

    /// Line and column, both from 1, before the edits.
    #[must_use]
    pub fn original(&self, line: u32, column: u32) -> (u32, u32) {
        offset_of(&self.text, line, column)
            .map_or((line, column), |offset| position_of(&self.before, self.original_offset(offset)))
    }

    /// Where a byte of the text was before the edits.
    #[must_use]
    pub fn original_offset(&self, offset: usize) -> usize {
        let mut inserted = 0;
        let mut removed = 0;
        for edit in &self.edits {
            let begins = edit.at + inserted - removed;
            if offset < begins {
                break;
            }
            if offset < begins + edit.insert.len() {
                return edit.at;
            }
            inserted += edit.insert.len();
            removed += edit.replaces;
        }
        offset + removed - inserted
    }
}

pub fn offset_of(text: &str, line: u32, column: u32) -> Option<usize> {
    let skip = usize::try_from(line.checked_sub(1)?).ok()?;
    let begins: usize = text.split_inclusive('\n').take(skip).map(str::len).sum();
    let rest = text.get(begins..)?;
    let chars = usize::try_from(column.checked_sub(1)?).ok()?;
    Some(begins + rest.char_indices().nth(chars).map_or(rest.len(), |(offset, _)| offset))
}

pub fn position_of(text: &str, offset: usize) -> (u32, u32) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

/// The text with nothing but white space, and every line where it was.
#[must_use]
pub fn blank(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\r') { c } else { ' ' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_lead_back_to_what_was_written() {
        let before = "ab\ncd ef\n";
        let edited = Edited::new(before, vec![Edit::insert(3, "xxx("), Edit::replace(5, 6, ", ")]).unwrap();
        assert_eq!(edited.text, "ab\nxxx(cd, ef\n");
        for (found, original) in
            [((1, 2), (1, 2)), ((2, 1), (2, 1)), ((2, 5), (2, 1)), ((2, 6), (2, 2)), ((2, 9), (2, 4))]
        {
            assert_eq!(edited.original(found.0, found.1), original, "{found:?}");
        }
        assert!(Edited::new("abc", vec![Edit::replace(0, 2, "x"), Edit::replace(1, 3, "y")]).is_none());
    }
}
