//! `multipart/form-data` as Go's `mime` and `mime/multipart` read it, over a body that is in memory.

use std::collections::BTreeMap;

use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MultipartError {
    #[error("mime: invalid media type")]
    MediaType,
    #[error("mime: invalid media parameter")]
    MediaParameter,
    #[error("mime: duplicate parameter name")]
    DuplicateParameter,
    #[error("malformed MIME header")]
    Header,
    #[error("multipart: NextPart: EOF")]
    NoFinalBoundary,
    #[error("multipart: unexpected line between parts")]
    UnexpectedLine,
    #[error("unexpected EOF")]
    UnexpectedEnd,
}

/// A part of a form: its `Content-Type`, and its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Empty for a part that has none.
    pub form_name: String,
    pub content_type: String,
    pub body: &'a [u8],
}

/// `mime.ParseMediaType`: the type in lower case, and its parameters.
pub fn parse_media_type(text: &str) -> Result<(String, BTreeMap<String, String>), MultipartError> {
    let (kind, mut rest) = text.split_once(';').map_or((text, ""), |(kind, _)| (kind, &text[kind.len()..]));
    let kind = kind.trim().to_ascii_lowercase();
    let (main, sub) = kind.split_once('/').map_or((kind.as_str(), None), |(main, sub)| (main, Some(sub)));
    if !is_token(main) || sub.is_some_and(|sub| !is_token(sub)) {
        return Err(MultipartError::MediaType);
    }
    let mut parameters = BTreeMap::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok((kind, parameters));
        }
        let Some((name, value, after)) = parameter(rest) else {
            // Go ignores a semicolon at the very end.
            return if rest.trim() == ";" {
                Ok((kind, parameters))
            } else {
                Err(MultipartError::MediaParameter)
            };
        };
        if parameters.insert(name, value.clone()).is_some_and(|known| known != value) {
            return Err(MultipartError::DuplicateParameter);
        }
        rest = after;
    }
}

fn parameter(text: &str) -> Option<(String, String, &str)> {
    let text = text.strip_prefix(';')?.trim_start();
    let name_end = text.find(|c: char| !is_token_char(c)).filter(|end| *end > 0)?;
    let (name, rest) = text.split_at(name_end);
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let (value, rest) = if let Some(quoted) = rest.strip_prefix('"') {
        quoted_string(quoted)?
    } else {
        let end = rest.find(|c: char| !is_token_char(c)).unwrap_or(rest.len());
        (end > 0).then(|| (rest[..end].to_owned(), &rest[end..]))?
    };
    Some((name.to_ascii_lowercase(), value, rest))
}

fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            // Only what RFC 2045 calls special needs escaping; other backslashes are file names of old browsers.
            '\\' => match chars.clone().next() {
                Some((_, next)) if !is_token_char(next) && next.is_ascii() => {
                    value.push(next);
                    chars.next();
                }
                _ => value.push('\\'),
            },
            '\r' | '\n' => return None,
            c => value.push(c),
        }
    }
    None
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_char)
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?=".contains(c)
}

/// All parts, or what Go would complain of.
pub fn parts<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Part<'a>>, MultipartError> {
    let mut reader =
        Reader { rest: body, dash_boundary: format!("--{boundary}").into_bytes(), newline: b"\r\n" };
    let mut parts = Vec::new();
    while reader.next_boundary(parts.is_empty())? {
        let (form_name, content_type) = reader.headers()?;
        let body = reader.part_body()?;
        parts.push(Part { form_name, content_type, body });
    }
    Ok(parts)
}

struct Reader<'a> {
    rest: &'a [u8],
    dash_boundary: Vec<u8>,
    newline: &'static [u8],
}

impl<'a> Reader<'a> {
    /// Moves behind the next boundary line; false at the final one.
    fn next_boundary(&mut self, is_first: bool) -> Result<bool, MultipartError> {
        let mut expects_boundary = false;
        loop {
            let (line, is_complete) = self.line();
            if self.is_final_boundary(line) {
                return Ok(false);
            }
            if !is_complete {
                return Err(MultipartError::NoFinalBoundary);
            }
            if self.is_boundary(line, is_first) {
                return Ok(true);
            }
            if expects_boundary {
                return Err(MultipartError::UnexpectedLine);
            }
            if is_first {
                continue;
            }
            if line != self.newline {
                return Err(MultipartError::UnexpectedLine);
            }
            expects_boundary = true;
        }
    }

    /// The next line with its end, and whether it had one.
    fn line(&mut self) -> (&'a [u8], bool) {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let (line, rest) = self.rest.split_at(end.map_or(self.rest.len(), |end| end + 1));
        self.rest = rest;
        (line, end.is_some())
    }

    fn is_final_boundary(&self, line: &[u8]) -> bool {
        line.strip_prefix(self.dash_boundary.as_slice())
            .and_then(|rest| rest.strip_prefix(b"--"))
            .map(skip_blanks)
            .is_some_and(|rest| rest.is_empty() || rest == self.newline)
    }

    fn is_boundary(&mut self, line: &[u8], is_first: bool) -> bool {
        let Some(rest) = line.strip_prefix(self.dash_boundary.as_slice()).map(skip_blanks) else {
            return false;
        };
        if is_first && rest == b"\n" {
            self.newline = b"\n";
        }
        rest == self.newline
    }

    fn headers(&mut self) -> Result<(String, String), MultipartError> {
        let mut headers: Vec<(String, String)> = Vec::new();
        loop {
            let (line, is_complete) = self.line();
            if !is_complete {
                return Err(MultipartError::UnexpectedEnd);
            }
            let text = super::go::to_text(line.trim_ascii_end());
            if text.is_empty() {
                break;
            }
            if text.starts_with([' ', '\t']) {
                let (_, value) = headers.last_mut().ok_or(MultipartError::Header)?;
                value.push(' ');
                value.push_str(text.trim());
                continue;
            }
            let (name, value) = text.split_once(':').ok_or(MultipartError::Header)?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let first =
            |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let form_name = first("content-disposition")
            .and_then(|value| parse_media_type(value).ok())
            .filter(|(kind, _)| kind == "form-data")
            .and_then(|(_, mut parameters)| parameters.remove("name"));
        Ok((form_name.unwrap_or_default(), first("content-type").unwrap_or_default().to_owned()))
    }

    /// Everything up to the line end that belongs to the next boundary, which stays.
    fn part_body(&mut self) -> Result<&'a [u8], MultipartError> {
        // A part without content has no line end of its own before the boundary.
        if self.ends_part(self.rest) {
            return Ok(&[]);
        }
        let ends_here =
            |at: &usize| self.rest[*at..].strip_prefix(self.newline).is_some_and(|rest| self.ends_part(rest));
        let end = (0..self.rest.len()).find(ends_here).ok_or(MultipartError::UnexpectedEnd)?;
        let (body, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(body)
    }

    fn ends_part(&self, text: &[u8]) -> bool {
        text.strip_prefix(self.dash_boundary.as_slice())
            .is_some_and(|rest| rest.first().is_none_or(|byte| b" \t\r\n-".contains(byte)))
    }
}

fn skip_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().take_while(|byte| **byte == b' ' || **byte == b'\t').count();
    &bytes[blanks..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Content-Disposition: form-data; name=\"a\"\r\n\r\n";

    fn bodies(text: &str) -> Result<Vec<(String, String)>, MultipartError> {
        let parts = parts(text.as_bytes(), "XX")?;
        Ok(parts.into_iter().map(|p| (p.form_name, String::from_utf8_lossy(p.body).into_owned())).collect())
    }

    #[test]
    fn reads_forms() {
        let one = |body: &str| Ok(vec![("a".to_owned(), body.to_owned())]);
        for (text, expected) in [
            (format!("--XX\r\n{HEAD}1\r\n--XX--\r\n"), one("1")),
            (format!("preamble\r\n--XX \t\r\n{HEAD}1\r\n--XX--"), one("1")),
            (format!("--XX\r\n{HEAD}\r\n--XX--\r\n"), one("")),
            (format!("--XX\r\n{HEAD}--XX--\r\n"), one("")),
            (format!("--XX\r\n{HEAD}1\r\n--XXY\r\n2\r\n--XX--\r\n"), one("1\r\n--XXY\r\n2")),
            (format!("--XX\n{}1\n--XX--\n", HEAD.replace('\r', "")), one("1")),
            ("--XX--".to_owned(), Ok(vec![])),
            ("--XX\r\n\r\nx\r\n--XX--".to_owned(), Ok(vec![(String::new(), "x".to_owned())])),
            (format!("--XX\r\n{HEAD}1\r\n"), Err(MultipartError::UnexpectedEnd)),
            ("nothing".to_owned(), Err(MultipartError::NoFinalBoundary)),
            ("--XX\r\nno colon\r\n\r\n1\r\n--XX--".to_owned(), Err(MultipartError::Header)),
        ] {
            assert_eq!(bodies(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn media_types() {
        let parameters = |text: &str| parse_media_type(text).map(|(kind, found)| format!("{kind} {found:?}"));
        for (text, expected) in [
            ("multipart/form-data; boundary=XX", Ok("multipart/form-data {\"boundary\": \"XX\"}")),
            (
                "Multipart/Form-Data ; Boundary=\"a b\\\"c\";",
                Ok("multipart/form-data {\"boundary\": \"a b\\\"c\"}"),
            ),
            ("multipart/form-data", Ok("multipart/form-data {}")),
            (
                "form-data; name=\"x\"; filename=\"C:\\dir\\f\"",
                Ok("form-data {\"filename\": \"C:\\\\dir\\\\f\", \"name\": \"x\"}"),
            ),
            ("multipart/form-data; boundary", Err(MultipartError::MediaParameter)),
            ("multipart/form-data, x; boundary=a", Err(MultipartError::MediaType)),
            ("multipart/form-data; boundary=a; boundary=b", Err(MultipartError::DuplicateParameter)),
        ] {
            assert_eq!(parameters(text), expected.map(str::to_owned), "{text}");
        }
    }
}
