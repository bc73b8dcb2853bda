//! Layouts: Go describes a format by how it writes one certain moment, Mon Jan 2 15:04:05 MST 2006.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    LongMonth,
    Month,
    NumberMonth,
    ZeroMonth,
    LongWeekday,
    Weekday,
    Day,
    SpaceDay,
    ZeroDay,
    SpaceYearDay,
    ZeroYearDay,
    Hour,
    Hour12,
    ZeroHour12,
    Minute,
    ZeroMinute,
    Second,
    ZeroSecond,
    LongYear,
    Year,
    UpperHalf,
    LowerHalf,
    Abbreviation,
    Zone(Zone),
    /// Digits after a point or a comma; with nines, without zeros at their end.
    Fraction {
        digits: usize,
        separator: char,
        is_trimmed: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "the parts of an offset, each by itself")]
pub struct Zone {
    /// `Z` stands for no offset.
    pub has_z: bool,
    pub has_colon: bool,
    pub has_minutes: bool,
    pub has_seconds: bool,
}

/// What stands for what. Of two that fit, the longer one comes first.
const WORDS: [(&str, Chunk); 28] = [
    ("January", Chunk::LongMonth),
    ("Jan", Chunk::Month),
    ("Monday", Chunk::LongWeekday),
    ("Mon", Chunk::Weekday),
    ("MST", Chunk::Abbreviation),
    ("01", Chunk::ZeroMonth),
    ("002", Chunk::ZeroYearDay),
    ("02", Chunk::ZeroDay),
    ("03", Chunk::ZeroHour12),
    ("04", Chunk::ZeroMinute),
    ("05", Chunk::ZeroSecond),
    ("06", Chunk::Year),
    ("15", Chunk::Hour),
    ("1", Chunk::NumberMonth),
    ("2006", Chunk::LongYear),
    ("2", Chunk::Day),
    ("__2", Chunk::SpaceYearDay),
    ("_2", Chunk::SpaceDay),
    ("3", Chunk::Hour12),
    ("4", Chunk::Minute),
    ("5", Chunk::Second),
    ("PM", Chunk::UpperHalf),
    ("pm", Chunk::LowerHalf),
    ("070000", zone(false, true, true)),
    ("07:00:00", zone(true, true, true)),
    ("0700", zone(false, true, false)),
    ("07:00", zone(true, true, false)),
    ("07", zone(false, false, false)),
];

const fn zone(has_colon: bool, has_minutes: bool, has_seconds: bool) -> Chunk {
    Chunk::Zone(Zone { has_z: false, has_colon, has_minutes, has_seconds })
}

/// The text before the next chunk, the chunk with its own text, and the rest of the layout.
pub fn next(layout: &str) -> (&str, Option<(Chunk, &str)>, &str) {
    for (at, _) in layout.char_indices() {
        let Some((before, from)) = layout.split_at_checked(at) else { continue };
        if let Some((chunk, length)) = chunk_at(from)
            && let Some((own, rest)) = from.split_at_checked(length)
        {
            return (before, Some((chunk, own)), rest);
        }
    }
    (layout, None, "")
}

fn chunk_at(text: &str) -> Option<(Chunk, usize)> {
    let first = text.chars().next()?;
    if matches!(first, '.' | ',') {
        return fraction_at(text, first).map(|chunk| {
            let Chunk::Fraction { digits, .. } = chunk else { return (chunk, 0) };
            (chunk, digits + 1)
        });
    }
    if let '-' | 'Z' = first {
        let (word, chunk) = find(text.get(1..)?, |chunk| matches!(chunk, Chunk::Zone(_)))?;
        let Chunk::Zone(zone) = chunk else { return None };
        return Some((Chunk::Zone(Zone { has_z: first == 'Z', ..zone }), word.len() + 1));
    }
    // An underscore before a year is itself.
    if text.starts_with("_2006") {
        return None;
    }
    let (word, chunk) = find(text, |chunk| !matches!(chunk, Chunk::Zone(_)))?;
    // Month is a word, Jan is not one in it.
    let is_word_start =
        text.get(word.len()..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    (!(is_word_start && matches!(chunk, Chunk::Month | Chunk::Weekday))).then_some((chunk, word.len()))
}

fn find(text: &str, is_wanted: impl Fn(Chunk) -> bool) -> Option<(&'static str, Chunk)> {
    WORDS.iter().copied().find(|(word, chunk)| is_wanted(*chunk) && text.starts_with(word))
}

fn fraction_at(text: &str, separator: char) -> Option<Chunk> {
    let rest = text.get(1..)?;
    let digit = rest.chars().next().filter(|c| matches!(c, '0' | '9'))?;
    let digits = rest.chars().take_while(|c| *c == digit).count();
    let is_end = !rest.chars().nth(digits).is_some_and(|c| c.is_ascii_digit());
    is_end.then_some(Chunk::Fraction { digits, separator, is_trimmed: digit == '9' })
}
