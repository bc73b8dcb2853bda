//! What people and programs see: tables that fit the terminal, blocks of fields, and JSON.
//!
//! Text that came from a server never reaches a terminal as it is: control characters, and those that turn the direction of
//! writing or cannot be seen, are written as escapes. A name must not be able to repaint the screen of whoever looks at it.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use serde_json::Value;
use thiserror::Error;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::principal::is_invisible;

/// Between columns.
const GAP: usize = 2;
/// No column is cut below this: an ellipsis and a few letters say more than a bare ellipsis.
const MIN_COLUMN: usize = 6;
/// A width below this is a mistake of the environment.
const MIN_WIDTH: usize = 20;

/// For one line.
pub fn clean(text: &str) -> String {
    escape(text, |_| false)
}

/// For text with lines of our own.
pub fn clean_lines(text: &str) -> String {
    escape(text, |c| c == '\n')
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if keep(c) || !is_invisible(c) => result.push(c),
            '\n' => result.push_str("\\n"),
            '\t' => result.push_str("\\t"),
            '\r' => result.push_str("\\r"),
            c => result.extend(c.escape_unicode()),
        }
    }
    result
}

/// JSON for programs, which a terminal may show all the same: what `serde_json` leaves as it is becomes an escape of
/// JSON. The value stays the same.
pub fn pretty(value: &Value) -> String {
    format!("{}\n", escape_json(&format!("{value:#}")))
}

/// The same on one line.
pub fn compact(value: &Value) -> String {
    format!("{}\n", escape_json(&value.to_string()))
}

fn escape_json(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut units = [0u16; 2];
    for c in text.chars() {
        if c == '\n' || !is_invisible(c) {
            result.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut units) {
            // Writing to a string cannot fail.
            let _ = write!(result, "\\u{unit:04x}");
        }
    }
    result
}

/// Columns of the terminal behind standard output; none if nothing has to fit.
pub fn width() -> Option<usize> {
    let named = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    named.or_else(|| terminal_width(&std::io::stdout())).filter(|width| *width >= MIN_WIDTH)
}

pub fn terminal_width(stream: &(impl IsTerminal + std::os::fd::AsFd)) -> Option<usize> {
    let size = stream.is_terminal().then(|| rustix::termios::tcgetwinsize(stream).ok())??;
    Some(usize::from(size.ws_col)).filter(|width| *width >= MIN_WIDTH)
}

/// A column: its title, and how long it keeps its width. The lowest is cut first.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    pub rank: u8,
}

pub const fn column(title: &'static str, rank: u8) -> Column {
    Column { title, rank }
}

pub struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(columns: [Column; N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| clean(&cell)));
    }

    /// `empty` instead of a heading over nothing.
    pub fn render(&self, width: Option<usize>, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let mut widths: [usize; N] = self.columns.map(|column| column.title.width());
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(cell.width());
            }
        }
        if let Some(width) = width {
            fit(&mut widths, &self.columns, width);
        }
        let titles = self.columns.map(|column| column.title.to_owned());
        let lines = std::iter::once(&titles).chain(&self.rows);
        lines.fold(String::new(), |text, row| text + &line(row, &widths))
    }
}

/// A row of a table whose other rows are not known yet: what is too long pushes the rest to the right, and the line is
/// cut where the terminal ends.
pub fn open_row<const N: usize>(cells: &[String; N], widths: [usize; N], width: Option<usize>) -> String {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let cell = clean(cell);
        let pad = " ".repeat(width.saturating_sub(cell.width()) + GAP);
        text.push_str(&cell);
        text.push_str(&pad);
    }
    let text = text.trim_end();
    format!("{}\n", width.map_or_else(|| text.to_owned(), |width| cut(text, width)))
}

/// Takes from the least important column first, and from the next when there is no more to take; then columns give way
/// altogether. The most important, an id that somebody will copy, is whole as long as it fits at all. What is left over goes
/// back to the most important that were cut.
fn fit<const N: usize>(widths: &mut [usize; N], columns: &[Column; N], width: usize) {
    let natural = *widths;
    let total = |widths: &[usize; N]| {
        let shown = widths.iter().filter(|width| **width > 0).count();
        widths.iter().sum::<usize>() + shown.saturating_sub(1) * GAP
    };
    let mut order: Vec<usize> = (0..N).collect();
    order.sort_by_key(|&index| columns.get(index).map_or(0, |column| column.rank));
    let (most, others) = order.split_last().map_or((0, &[][..]), |(most, others)| (*most, others));
    for floor in [MIN_COLUMN, 0] {
        for &index in others {
            let excess = total(widths).saturating_sub(width);
            let Some(column) = widths.get_mut(index).filter(|_| excess > 0) else { continue };
            *column = if floor == 0 { 0 } else { column.saturating_sub(excess).max(floor.min(*column)) };
        }
    }
    let excess = total(widths).saturating_sub(width);
    if let Some(column) = widths.get_mut(most) {
        *column = column.saturating_sub(excess).max(1);
    }
    for &index in others.iter().rev() {
        let spare = width.saturating_sub(total(widths));
        if let (Some(column), Some(natural)) = (widths.get_mut(index), natural.get(index))
            && *column > 0
        {
            *column += spare.min(natural.saturating_sub(*column));
        }
    }
}

fn line<const N: usize>(row: &[String; N], widths: &[usize; N]) -> String {
    let mut text = String::new();
    for (cell, width) in row.iter().zip(widths).filter(|(_, width)| **width > 0) {
        let cell = cut(cell, *width);
        let pad = " ".repeat(width.saturating_sub(cell.width()) + GAP);
        text.push_str(&cell);
        text.push_str(&pad);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// At most so many columns; an ellipsis says that there was more.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 0;
    let kept = text.chars().take_while(|c| {
        used += c.width().unwrap_or(0);
        used < width
    });
    let mut kept: String = kept.collect();
    kept.push('…');
    kept
}

/// A headline and fields below it; fields without a value are left out.
pub struct Block {
    head: String,
    fields: Vec<(&'static str, String)>,
}

impl Block {
    pub fn new(head: &str) -> Self {
        Self { head: clean(head), fields: Vec::new() }
    }

    pub fn field(&mut self, name: &'static str, value: impl AsRef<str>) -> &mut Self {
        let value = value.as_ref();
        if !value.is_empty() {
            self.fields.push((name, clean(value)));
        }
        self
    }

    pub fn render(&self) -> String {
        let widest = self.fields.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
        let mut text = format!("{}\n", self.head);
        for (name, value) in &self.fields {
            let _ = writeln!(text, "  {name:widest$}  {value}");
        }
        text
    }
}

/// Whether anybody still reads what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    There,
    /// A closed pipe is the reader's wish, not a failure.
    Gone,
}

/// Half of what was to be printed may be there, and nobody must take it for all.
#[derive(Debug, Error)]
#[error("standard output cannot be written; what is there is not whole")]
pub struct PrintError(#[from] std::io::Error);

pub fn print(text: &str) -> Result<Reader, PrintError> {
    print_to(&mut std::io::stdout().lock(), text)
}

fn print_to(out: &mut impl std::io::Write, text: &str) -> Result<Reader, PrintError> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(PrintError(error)),
    }
}

/// For commands that print as they go and have nothing to undo: if it cannot be printed, the program ends.
pub fn tell(text: std::fmt::Arguments<'_>) {
    if let Err(error) = print(&text.to_string()) {
        std::process::exit(i32::from(super::fail(&error.into())));
    }
}

/// A line of it.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::tell(format_args!("{}\n", format_args!($($text)*))) };
}
pub(in crate::cli) use say;

/// A line on standard error, of whatever text. Nobody may be there to read it, and that stops nothing.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", clean(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_does_not_reach_the_terminal_as_it_is() {
        assert_eq!(
            clean("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e\u{7f}"),
            "a\\u{1b}[2Jb\\nc\\u{9b}d\\u{202e}e\\u{7f}"
        );
        assert_eq!(clean_lines("a\nb\r"), "a\nb\\r");
        assert_eq!(clean("Zoë 東京 👍"), "Zoë 東京 👍");
        let value = serde_json::json!({"a": "x\u{9b}\u{7f}\u{e0001}\u{202e}\u{1b}"});
        let text = pretty(&value);
        assert!(!text.chars().any(|c| c != '\n' && is_invisible(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn only_a_reader_who_has_gone_is_no_failure() {
        struct Broken(std::io::ErrorKind);
        impl std::io::Write for Broken {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(print_to(&mut Vec::new(), "x").unwrap(), Reader::There);
        let end = |kind| print_to(&mut Broken(kind), "x");
        assert_eq!(end(std::io::ErrorKind::BrokenPipe).unwrap(), Reader::Gone);
        assert!(end(std::io::ErrorKind::StorageFull).is_err());
        assert!(end(std::io::ErrorKind::Other).is_err());
    }

    fn table() -> Table<3> {
        let mut table = Table::new([column("ID", 9), column("COVERS", 1), column("ENDS", 5)]);
        table.row(["g-1".into(), "GET orders.example /db/**".into(), "in 42m".into()]);
        table.row(["g-22".into(), "東京東京東京東京".into(), "in 3h".into()]);
        table
    }

    #[test]
    fn a_table_is_as_wide_as_it_needs_and_no_wider_than_it_may() {
        let whole = table().render(None, "none");
        assert!(whole.starts_with("ID    COVERS                     ENDS\n"), "{whole}");
        assert!(whole.contains("GET orders.example /db/**  in 42m\n"), "{whole}");
        for width in MIN_WIDTH..60 {
            let text = table().render(Some(width), "none");
            assert!(text.lines().all(|line| line.width() <= width), "{width}: {text}");
            assert!(text.contains("g-22") && text.contains("in 42m"), "{width}: {text}");
        }
        assert!(table().render(Some(30), "none").contains("GET orders.exam…"));
    }

    #[test]
    fn the_least_important_goes_first_and_the_most_important_last() {
        let mut wide = Table::new([column("ID", 9), column("B", 1), column("C", 5)]);
        wide.row(["i".repeat(40), "b".repeat(40), "c".repeat(40)]);
        let text = wide.render(Some(40), "none");
        assert!(text.contains(&"i".repeat(40)) && !text.contains('b'), "{text}");
        // A column that went leaves room for others that were cut.
        let text = wide.render(Some(52), "none");
        assert!(text.contains(&"i".repeat(40)) && text.contains(&format!("{}…", "c".repeat(9))), "{text}");
        let text = wide.render(Some(24), "none");
        assert_eq!(text.lines().nth(1).unwrap(), format!("{}…", "i".repeat(23)));
        assert_eq!(Table::<1>::new([column("ID", 1)]).render(None, "no grants"), "no grants\n");
    }
}
