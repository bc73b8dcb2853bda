//! Reading GraphQL queries (October 2021, section 2, with variables on fragments), and what queries and schemas share.
//!
//! Text comes from strangers: its depth and its length are bounded, and the first thing wrong ends the reading.

use std::cell::Cell;
use std::fmt;

use super::ast::{
    Argument, ChildLiteral, Directive, Field, FragmentDefinition, FragmentSpread, InlineFragment, Literal,
    LiteralKind, Operation, OperationDefinition, QueryDocument, Selection, TypeRef, Unset,
    VariableDefinition,
};
use super::lexer::{Kind, Lexer, Position, Token};

/// Levels of selections, literals and types. Each is up to three levels of the object that is made of it.
const MAX_DEPTH: usize = 128;
/// The largest public schemas have about this many; a query has hundreds.
const MAX_TOKENS: usize = 1 << 20;

/// What is wrong with a document, and where if that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    pub at: Option<Position>,
}

impl Problem {
    pub fn new(at: Option<Position>, message: impl Into<String>) -> Self {
        Self { message: message.into(), at }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.at {
            Some(at) => write!(f, " in GraphQL string at location {}:{}", at.line, at.column),
            None => Ok(()),
        }
    }
}

/// Steps of one validation: some rules compare everything with everything. The largest public schemas take a tenth.
const MAX_STEPS: usize = 300_000;

#[derive(Debug)]
pub struct Budget(Cell<usize>);

impl Default for Budget {
    fn default() -> Self {
        Self(Cell::new(MAX_STEPS))
    }
}

impl Budget {
    pub fn spend(&self, steps: usize) -> Parsed<()> {
        let left = self.0.get().checked_sub(steps);
        self.0.set(left.unwrap_or(0));
        left.map(drop)
            .ok_or_else(|| Problem::new(None, format!("validation takes more than {MAX_STEPS} steps")))
    }
}

pub type Parsed<T> = Result<T, Problem>;

pub fn parse_query(text: &str) -> Parsed<QueryDocument> {
    let mut parser = Parser::new(text);
    let mut document = QueryDocument::default();
    loop {
        let token = parser.peek();
        match (token.kind, token.text.as_str()) {
            (Kind::End, _) => return Ok(document),
            (Kind::BraceL, _) | (Kind::Name, "query" | "mutation" | "subscription") => {
                document.operations.push(parser.operation()?);
            }
            (Kind::Name, "fragment") => document.fragments.push(parser.fragment()?),
            _ => return Err(parser.unexpected()),
        }
    }
}

pub struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token,
    depth: usize,
    left: usize,
}

impl<'a> Parser<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut lexer = Lexer::new(text);
        let token = lexer.next();
        Self { lexer, token, depth: 0, left: MAX_TOKENS }
    }

    pub fn peek(&self) -> &Token {
        &self.token
    }

    #[allow(clippy::unnecessary_wraps, reason = "as nodes have it")]
    pub fn at(&self) -> Option<Position> {
        Some(self.token.at)
    }

    pub fn problem(token: &Token, message: impl Into<String>) -> Problem {
        Problem::new(Some(token.at), message)
    }

    pub fn unexpected(&self) -> Problem {
        Self::problem(&self.token, format!("Unexpected {}", self.token))
    }

    pub fn next(&mut self) -> Parsed<Token> {
        if self.token.kind == Kind::Invalid {
            return Err(self.unexpected());
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return Err(Self::problem(&self.token, format!("exceeded token limit of {MAX_TOKENS}")));
        }
        let next = self.lexer.next();
        Ok(std::mem::replace(&mut self.token, next))
    }

    pub fn skip(&mut self, kind: Kind) -> Parsed<bool> {
        let is_there = self.token.kind == kind;
        if is_there {
            self.next()?;
        }
        Ok(is_there)
    }

    pub fn expect(&mut self, kind: Kind) -> Parsed<Token> {
        if self.token.kind != kind {
            return Err(Self::problem(&self.token, format!("Expected {kind}, found {}", self.token.kind)));
        }
        self.next()
    }

    pub fn keyword(&mut self, word: &str) -> Parsed<()> {
        if self.token.kind != Kind::Name || self.token.text != word {
            return Err(Self::problem(&self.token, format!("Expected {word:?}, found {}", self.token)));
        }
        self.next().map(drop)
    }

    pub fn name(&mut self) -> Parsed<String> {
        self.expect(Kind::Name).map(|token| token.text)
    }

    /// Nothing, or one item and more between brackets.
    pub fn some<T>(
        &mut self,
        (open, close): (Kind, Kind),
        item: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let is_there = self.token.kind == open;
        let items = self.many((open, close), item)?;
        // The closing bracket is not read yet, for it is where the message points.
        if is_there && items.is_empty() {
            let message = format!("expected at least one definition, found {}", self.token.kind);
            return Err(Self::problem(&self.token, message));
        }
        if is_there {
            self.next()?;
        }
        Ok(items)
    }

    /// Items up to the closing bracket, which stays.
    fn many<T>(
        &mut self,
        (open, close): (Kind, Kind),
        mut item: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        if !self.skip(open)? {
            return Ok(items);
        }
        if self.depth >= MAX_DEPTH {
            return Err(Self::problem(&self.token, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        while self.token.kind != close {
            items.push(item(self)?);
        }
        self.depth -= 1;
        Ok(items)
    }

    pub fn operation_type(&mut self) -> Parsed<Operation> {
        let token = self.next()?;
        Operation::from_word(&token.text).ok_or_else(|| Self::problem(&token, format!("Unexpected {token}")))
    }

    fn operation(&mut self) -> Parsed<OperationDefinition> {
        let at = self.at();
        if self.token.kind == Kind::BraceL {
            let selections = self.required_selections()?;
            return Ok(OperationDefinition { at, selections, ..OperationDefinition::default() });
        }
        let operation = self.operation_type()?;
        let name = if self.token.kind == Kind::Name { self.name()? } else { String::new() };
        Ok(OperationDefinition {
            at,
            operation,
            name,
            variables: self.variables()?,
            directives: self.directives(false)?,
            selections: self.required_selections()?,
        })
    }

    fn variables(&mut self) -> Parsed<Vec<VariableDefinition>> {
        self.some((Kind::ParenL, Kind::ParenR), |parser| {
            let at = parser.at();
            let name = parser.variable()?;
            parser.expect(Kind::Colon)?;
            Ok(VariableDefinition {
                at,
                name,
                kind: parser.type_ref()?,
                default: parser.default_value()?,
                directives: parser.directives(false)?,
                used: Unset,
            })
        })
    }

    fn variable(&mut self) -> Parsed<String> {
        self.expect(Kind::Dollar)?;
        self.name()
    }

    pub fn default_value(&mut self) -> Parsed<Option<Literal>> {
        if self.skip(Kind::Equals)? { self.literal(true).map(Some) } else { Ok(None) }
    }

    fn required_selections(&mut self) -> Parsed<Vec<Selection>> {
        if self.token.kind != Kind::BraceL {
            let message = format!("Expected {}, found {}", Kind::BraceL, self.token.kind);
            return Err(Self::problem(&self.token, message));
        }
        self.selections()
    }

    fn selections(&mut self) -> Parsed<Vec<Selection>> {
        self.some((Kind::BraceL, Kind::BraceR), |parser| {
            if parser.token.kind == Kind::Spread {
                parser.spread()
            } else {
                parser.field().map(Selection::Field)
            }
        })
    }

    fn field(&mut self) -> Parsed<Field> {
        let at = self.at();
        let alias = self.name()?;
        let name = if self.skip(Kind::Colon)? { self.name()? } else { alias.clone() };
        Ok(Field {
            at,
            alias,
            name,
            arguments: self.arguments(false)?,
            directives: self.directives(false)?,
            selections: self.selections()?,
        })
    }

    fn spread(&mut self) -> Parsed<Selection> {
        self.expect(Kind::Spread)?;
        let at = self.at();
        let is_on = self.token.text == "on";
        if self.token.kind == Kind::Name && !is_on {
            let name = self.name()?;
            return Ok(Selection::Spread(FragmentSpread { at, name, directives: self.directives(false)? }));
        }
        let mut condition = String::new();
        if is_on {
            self.next()?;
            condition = self.name()?;
        }
        Ok(Selection::Inline(InlineFragment {
            at,
            condition,
            directives: self.directives(false)?,
            selections: self.required_selections()?,
        }))
    }

    fn fragment(&mut self) -> Parsed<FragmentDefinition> {
        let at = self.at();
        self.keyword("fragment")?;
        if self.token.text == "on" {
            return Err(self.unexpected());
        }
        let name = self.name()?;
        let variables = self.variables()?;
        self.keyword("on")?;
        Ok(FragmentDefinition {
            at,
            name,
            variables,
            condition: self.name()?,
            directives: self.directives(false)?,
            selections: self.required_selections()?,
        })
    }

    fn arguments(&mut self, is_const: bool) -> Parsed<Vec<Argument>> {
        self.some((Kind::ParenL, Kind::ParenR), |parser| {
            let at = parser.at();
            let name = parser.name()?;
            parser.expect(Kind::Colon)?;
            Ok(Argument { at, name, value: parser.literal(is_const)? })
        })
    }

    pub fn directives(&mut self, is_const: bool) -> Parsed<Vec<Directive>> {
        let mut directives = Vec::new();
        while self.skip(Kind::At)? {
            let at = self.at();
            let name = self.name()?;
            directives.push(Directive { at, name, arguments: self.arguments(is_const)?, location: Unset });
        }
        Ok(directives)
    }

    fn literal(&mut self, is_const: bool) -> Parsed<Literal> {
        let at = self.at();
        let (kind, children) = match (self.token.kind, self.token.text.as_str()) {
            (Kind::BracketL, _) => {
                let items = self.many((Kind::BracketL, Kind::BracketR), |parser| {
                    let value = parser.literal(is_const)?;
                    Ok(ChildLiteral { at: None, name: String::new(), value })
                })?;
                (LiteralKind::List, items)
            }
            (Kind::BraceL, _) => {
                let members = self.many((Kind::BraceL, Kind::BraceR), |parser| {
                    let at = parser.at();
                    let name = parser.name()?;
                    parser.expect(Kind::Colon)?;
                    Ok(ChildLiteral { at, name, value: parser.literal(is_const)? })
                })?;
                (LiteralKind::Object, members)
            }
            (Kind::Dollar, _) if !is_const => {
                return Ok(Literal { at, raw: self.variable()?, ..Literal::default() });
            }
            (Kind::Int, _) => (LiteralKind::Int, Vec::new()),
            (Kind::Float, _) => (LiteralKind::Float, Vec::new()),
            (Kind::Text, _) => (LiteralKind::Text, Vec::new()),
            (Kind::BlockText, _) => (LiteralKind::Block, Vec::new()),
            (Kind::Name, "true" | "false") => (LiteralKind::Boolean, Vec::new()),
            (Kind::Name, "null") => (LiteralKind::Null, Vec::new()),
            (Kind::Name, _) => (LiteralKind::Enum, Vec::new()),
            _ => return Err(self.unexpected()),
        };
        // The word itself, or the closing bracket, which has no text.
        let raw = self.next()?.text;
        Ok(Literal { at, raw, children, kind, has_default: Unset })
    }

    pub fn type_ref(&mut self) -> Parsed<TypeRef> {
        // `many` bounds the depth; a list has one item.
        let list = self.token.kind == Kind::BracketL;
        let mut found = TypeRef::default();
        if list {
            self.next()?;
            if self.depth >= MAX_DEPTH {
                return Err(Self::problem(&self.token, format!("nested deeper than {MAX_DEPTH} levels")));
            }
            found.at = self.at();
            self.depth += 1;
            found.item = Some(Box::new(self.type_ref()?));
            self.depth -= 1;
            self.expect(Kind::BracketR)?;
        } else {
            found.at = self.at();
            found.name = self.name()?;
        }
        found.non_null = self.skip(Kind::Bang)?;
        Ok(found)
    }
}
