//! Text with parts replaced, which still knows where each part came from: positions in messages are those of the file
//! that somebody wrote.

/// `replaces` bytes at `at` give way to `insert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    at: usize,
    replaces: usize,
    insert: String,
    place: Place,
}

/// Which of several edits at one place comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// What ends here: the inner one, which was found later, first.
    Close,
    /// What begins here: the outer one, which was found first, first.
    Open,
    Replace,
}

impl Edit {
    #[must_use]
    pub fn insert(at: usize, text: impl Into<String>) -> Self {
        Self { at, replaces: 0, insert: text.into(), place: Place::Open }
    }

    /// The end of what an insertion before it began.
    #[must_use]
    pub fn close(at: usize, text: impl Into<String>) -> Self {
        Self { at, replaces: 0, insert: text.into(), place: Place::Close }
    }

    #[must_use]
    pub fn replace(from: usize, to: usize, text: impl Into<String>) -> Self {
        Self { at: from, replaces: to.saturating_sub(from), insert: text.into(), place: Place::Replace }
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
    pub fn new(before: &str, edits: Vec<Edit>) -> Option<Self> {
        let mut ordered: Vec<(usize, Edit)> = edits.into_iter().enumerate().collect();
        ordered.sort_by_key(|(found, edit)| match edit.place {
            Place::Close => (edit.at, edit.place, usize::MAX - found),
            Place::Open | Place::Replace => (edit.at, edit.place, *found),
        });
        let mut edits: Vec<Edit> = ordered.into_iter().map(|(_, edit)| edit).collect();
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

    /// Line and column, both from 1, of a byte before the edits.
    #[must_use]
    pub fn position(&self, offset: usize) -> (u32, u32) {
        position_of(&self.before, offset)
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

/// Where a position of the engine is, for which a tab is four columns wide and other characters as many as they have
/// bytes. Never beyond the end of the line.
#[must_use]
pub fn offset_of(text: &str, line: u32, column: u32) -> Option<usize> {
    const TAB_WIDTH: usize = 4;
    let skip = usize::try_from(line.checked_sub(1)?).ok()?;
    let begins: usize = text.split_inclusive('\n').take(skip).map(str::len).sum();
    let line = text.get(begins..)?.split(['\r', '\n']).next()?;
    let wanted = usize::try_from(column.checked_sub(1)?).ok()?;
    let mut passed = 0;
    for (offset, c) in line.char_indices() {
        if passed >= wanted {
            return Some(begins + offset);
        }
        passed += if c == '\t' { TAB_WIDTH } else { c.len_utf8() };
    }
    Some(begins + line.len())
}

/// Line and column, both from 1, columns counted in characters.
#[must_use]
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
        for (found, original) in [((1, 2), 1), ((2, 1), 3), ((2, 5), 3), ((2, 6), 4), ((2, 9), 6)] {
            let offset = offset_of(&edited.text, found.0, found.1).unwrap();
            assert_eq!(edited.original_offset(offset), original, "{found:?}");
        }
        assert_eq!(offset_of("a\n\t\u{e9}x\n", 2, 7), Some(5), "a tab is four columns, the letter two");
        assert_eq!(offset_of("ab\ncd", 1, 99), Some(2));
        assert_eq!(position_of("a\n\t\u{e9}x", 5), (2, 3));
        assert!(Edited::new("abc", vec![Edit::replace(0, 2, "x"), Edit::replace(1, 3, "y")]).is_none());
    }
}
