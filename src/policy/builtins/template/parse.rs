//! Reading a template of Go's `text/template`: actions, pipelines and blocks; no named templates.
//!
//! A template can come from a request: its nesting is bounded, and what is not understood is an error.

/// Blocks and parentheses inside each other.
const MAX_DEPTH: usize = 64;

#[derive(Debug)]
pub enum Node {
    Text(String),
    Output(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
}

#[derive(Debug)]
pub struct Branch {
    pub pipeline: Pipeline,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

#[derive(Debug, Default)]
pub struct Pipeline {
    pub variables: Vec<String>,
    /// `:=` and not `=`.
    pub declares: bool,
    pub commands: Vec<Vec<Operand>>,
}

#[derive(Debug)]
pub enum Operand {
    Dot,
    Nil,
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Call(String),
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Group(Pipeline, Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// `.a.b`; none for the dot alone.
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Int(i64),
    Float(f64),
    Text(String),
    Declare,
    Assign,
    Comma,
    Pipe,
    Open,
    /// With the fields that follow it.
    Close(Vec<String>),
}

pub type Parsed<T> = Result<T, String>;

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

pub fn parse(text: &str) -> Parsed<Vec<Node>> {
    let mut parser = Parser { pieces: pieces(text)?.into_iter(), depth: 0, loops: 0 };
    match parser.nodes()? {
        (nodes, None) => Ok(nodes),
        (_, Some(end)) => Err(format!("unexpected {{{{{}}}}}", end.word)),
    }
}

/// Texts and actions in turn; a marker takes the white space on its side away.
fn pieces(text: &str) -> Parsed<Vec<Piece>> {
    let (mut pieces, mut rest, mut trims) = (Vec::new(), text, false);
    loop {
        let open = rest.find("{{");
        let (mut before, after) = match open {
            Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 2..)),
            None => (rest, None),
        };
        if trims {
            before = before.trim_start_matches(is_space);
        }
        let Some(mut after) = after else {
            pieces.push(Piece::Text(before.to_owned()));
            return Ok(pieces);
        };
        if let Some(marked) = after.strip_prefix('-').filter(|marked| marked.starts_with(is_space)) {
            before = before.trim_end_matches(is_space);
            after = marked;
        }
        pieces.push(Piece::Text(before.to_owned()));
        let start = after.trim_start_matches(is_space);
        if let Some(comment) = start.strip_prefix("/*") {
            let (_, end) = comment.split_once("*/").ok_or("unclosed comment")?;
            let marked = end.trim_start_matches(is_space);
            trims = end.starts_with(is_space) && marked.starts_with("-}}");
            rest = marked
                .strip_prefix("-}}")
                .filter(|_| trims)
                .or_else(|| end.strip_prefix("}}"))
                .ok_or("comment ends before closing delimiter")?;
            continue;
        }
        let mut lexer = Lexer { rest: after };
        pieces.push(Piece::Action(lexer.tokens()?));
        trims = lexer.rest.starts_with('-');
        rest = lexer.rest.trim_start_matches('-').strip_prefix("}}").ok_or("unclosed action")?;
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    /// Up to the closing delimiter or its marker.
    fn tokens(&mut self) -> Parsed<Vec<Token>> {
        let mut tokens = Vec::new();
        loop {
            let spaceless = self.rest.trim_start_matches(is_space);
            let is_marked = spaceless.len() < self.rest.len() && spaceless.starts_with("-}}");
            self.rest = spaceless;
            if is_marked || self.rest.starts_with("}}") {
                return Ok(tokens);
            }
            tokens.push(self.token()?);
        }
    }

    fn eat(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn take_while(&mut self, passes: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !passes(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn token(&mut self) -> Parsed<Token> {
        for (text, token) in
            [(":=", Token::Declare), ("=", Token::Assign), (",", Token::Comma), ("|", Token::Pipe)]
        {
            if self.eat(text) {
                return Ok(token);
            }
        }
        match self.rest.chars().next().ok_or("unclosed action")? {
            '(' => {
                self.eat("(");
                Ok(Token::Open)
            }
            ')' => {
                self.eat(")");
                Ok(Token::Close(self.fields()))
            }
            '$' => {
                self.eat("$");
                let name = self.take_while(is_word).to_owned();
                Ok(Token::Variable(name, self.fields()))
            }
            '"' => self.quoted(),
            '`' => {
                let (text, rest) = self
                    .rest
                    .get(1..)
                    .and_then(|rest| rest.split_once('`'))
                    .ok_or("unterminated raw string")?;
                self.rest = rest;
                Ok(Token::Text(text.to_owned()))
            }
            '.' if !self.rest.get(1..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) => {
                let fields = self.fields();
                if fields.is_empty() {
                    self.eat(".");
                }
                Ok(Token::Field(fields))
            }
            '+' | '-' | '.' | '0'..='9' => self.number(),
            c if is_word(c) => Ok(Token::Word(self.take_while(is_word).to_owned())),
            c => Err(format!("unexpected {c:?} in action")),
        }
    }

    fn fields(&mut self) -> Vec<String> {
        let mut fields = Vec::new();
        while let Some(rest) = self.rest.strip_prefix('.').filter(|rest| rest.starts_with(is_word)) {
            self.rest = rest;
            fields.push(self.take_while(is_word).to_owned());
        }
        fields
    }

    fn number(&mut self) -> Parsed<Token> {
        let text = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_'));
        let plain = text.strip_prefix('+').unwrap_or(text);
        let (sign, digits) = plain.strip_prefix('-').map_or((1, plain), |digits| (-1, digits));
        if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            return i64::from_str_radix(hex, 16)
                .map(|n| Token::Int(n * sign))
                .map_err(|_| format!("bad number {text}"));
        }
        match plain.parse() {
            Ok(whole) => Ok(Token::Int(whole)),
            Err(_) if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
                plain.parse().map(Token::Float).map_err(|_| format!("bad number syntax: {text:?}"))
            }
            Err(_) => Err(format!("bad number syntax: {text:?}")),
        }
    }

    fn quoted(&mut self) -> Parsed<Token> {
        let mut text = String::new();
        let mut chars = self.rest.chars();
        chars.next();
        loop {
            let c = match chars.next() {
                Some('"') => break,
                Some('\\') => match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(c @ ('"' | '\\' | '\'')) => c,
                    Some(kind @ ('u' | 'U' | 'x')) => {
                        let count = match kind {
                            'x' => 2,
                            'u' => 4,
                            _ => 8,
                        };
                        let digits: String = chars.by_ref().take(count).collect();
                        let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == count);
                        code.and_then(char::from_u32).ok_or("invalid escape in string")?
                    }
                    _ => return Err("invalid escape in string".to_owned()),
                },
                None | Some('\n') => return Err("unterminated quoted string".to_owned()),
                Some(c) => c,
            };
            text.push(c);
        }
        self.rest = chars.as_str();
        Ok(Token::Text(text))
    }
}

/// `else` or `end`, with what follows it.
struct End {
    word: String,
    tokens: Vec<Token>,
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
    loops: usize,
}

impl Parser {
    fn nodes(&mut self) -> Parsed<(Vec<Node>, Option<End>)> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) if text.is_empty() => continue,
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let (word, rest) = match tokens.split_first() {
                Some((Token::Word(word), rest)) => (word.as_str(), rest),
                Some(_) => ("", tokens.as_slice()),
                None => return Err("missing value for command".to_owned()),
            };
            nodes.push(match word {
                "if" => Node::If(self.branch("if", rest)?),
                "with" => Node::With(self.branch("with", rest)?),
                "range" => {
                    self.loops += 1;
                    let branch = self.branch("range", rest)?;
                    self.loops -= 1;
                    Node::Range(branch)
                }
                "else" | "end" => {
                    return Ok((nodes, Some(End { word: word.to_owned(), tokens: rest.to_vec() })));
                }
                "break" | "continue" if self.loops == 0 => {
                    return Err(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                }
                "break" if rest.is_empty() => Node::Break,
                "continue" if rest.is_empty() => Node::Continue,
                "define" | "template" | "block" => return Err(format!("{word} is not supported")),
                _ => Node::Output(pipeline(&tokens, 0)?),
            });
        }
        Ok((nodes, None))
    }

    fn branch(&mut self, word: &str, tokens: &[Token]) -> Parsed<Branch> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        let pipeline = pipeline(tokens, 0)?;
        let (body, end) = self.nodes()?;
        let end = end.ok_or("unexpected EOF")?;
        let otherwise = match (end.word.as_str(), end.tokens.split_first()) {
            ("end", None) => Vec::new(),
            ("else", None) => match self.nodes()? {
                (nodes, Some(End { word, tokens })) if word == "end" && tokens.is_empty() => nodes,
                (_, Some(_)) => return Err("expected end; found {{else}}".to_owned()),
                (_, None) => return Err("unexpected EOF".to_owned()),
            },
            // The end of the inner one is the end of both.
            ("else", Some((Token::Word(next), rest))) if next == word && word != "range" => {
                let inner = self.branch(word, rest)?;
                vec![if word == "if" { Node::If(inner) } else { Node::With(inner) }]
            }
            _ => return Err(format!("unexpected token after {}", end.word)),
        };
        self.depth -= 1;
        Ok(Branch { pipeline, body, otherwise })
    }
}

fn pipeline(tokens: &[Token], depth: usize) -> Parsed<Pipeline> {
    if depth > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH} levels"));
    }
    let mut found = Pipeline::default();
    let mut rest = tokens;
    match tokens {
        [Token::Variable(name, fields), sign @ (Token::Declare | Token::Assign), after @ ..]
            if fields.is_empty() =>
        {
            found.variables.push(name.clone());
            found.declares = *sign == Token::Declare;
            rest = after;
        }
        [
            Token::Variable(key, a),
            Token::Comma,
            Token::Variable(value, b),
            sign @ (Token::Declare | Token::Assign),
            after @ ..,
        ] if a.is_empty() && b.is_empty() => {
            found.variables.extend([key.clone(), value.clone()]);
            found.declares = *sign == Token::Declare;
            rest = after;
        }
        _ => {}
    }
    let mut command = Vec::new();
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        command.push(match token {
            Token::Pipe => {
                found.commands.push(std::mem::take(&mut command));
                continue;
            }
            Token::Open => {
                let end = closing(rest).ok_or("unclosed left paren")?;
                let (inside, after) = rest.split_at(end);
                let fields = match after.split_first() {
                    Some((Token::Close(fields), after)) => {
                        rest = after;
                        fields.clone()
                    }
                    _ => return Err("unclosed left paren".to_owned()),
                };
                Operand::Group(pipeline(inside, depth + 1)?, fields)
            }
            Token::Word(word) => match word.as_str() {
                "true" => Operand::Bool(true),
                "false" => Operand::Bool(false),
                "nil" => Operand::Nil,
                _ => Operand::Call(word.clone()),
            },
            Token::Field(fields) if fields.is_empty() => Operand::Dot,
            Token::Field(fields) => Operand::Field(fields.clone()),
            Token::Variable(name, fields) => Operand::Variable(name.clone(), fields.clone()),
            Token::Int(whole) => Operand::Int(*whole),
            Token::Float(number) => Operand::Float(*number),
            Token::Text(text) => Operand::Text(text.clone()),
            Token::Declare | Token::Assign | Token::Comma | Token::Close(_) => {
                return Err("unexpected token in operand".to_owned());
            }
        });
    }
    found.commands.push(command);
    if found.commands.iter().any(Vec::is_empty) {
        return Err("missing value for command".to_owned());
    }
    Ok(found)
}

fn closing(tokens: &[Token]) -> Option<usize> {
    let mut depth = 0_usize;
    tokens.iter().position(|token| {
        match token {
            Token::Open => depth += 1,
            Token::Close(_) if depth == 0 => return true,
            Token::Close(_) => depth -= 1,
            _ => {}
        }
        false
    })
}
