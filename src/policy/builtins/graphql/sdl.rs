//! Reading GraphQL schemas (October 2021, section 3).

use super::ast::{
    ArgumentDefinition, Definition, DirectiveDefinition, EnumValue, FieldDefinition, Member, OperationType,
    SchemaDefinition, SchemaDocument, TypeKind,
};
use super::lexer::Kind;
use super::parser::{Parsed, Parser};

/// Where a directive may stand; the same words are the locations of uses.
const LOCATIONS: [&str; 19] = [
    "QUERY",
    "MUTATION",
    "SUBSCRIPTION",
    "FIELD",
    "FRAGMENT_DEFINITION",
    "FRAGMENT_SPREAD",
    "INLINE_FRAGMENT",
    "VARIABLE_DEFINITION",
    "SCHEMA",
    "SCALAR",
    "OBJECT",
    "FIELD_DEFINITION",
    "ARGUMENT_DEFINITION",
    "INTERFACE",
    "UNION",
    "ENUM",
    "ENUM_VALUE",
    "INPUT_OBJECT",
    "INPUT_FIELD_DEFINITION",
];

const BRACES: (Kind, Kind) = (Kind::BraceL, Kind::BraceR);

pub fn parse_schema(text: &str) -> Parsed<SchemaDocument> {
    let mut parser = Parser::new(text);
    let mut document = SchemaDocument::default();
    while parser.peek().kind != Kind::End {
        let described =
            matches!(parser.peek().kind, Kind::Text | Kind::BlockText).then(|| parser.peek().clone());
        let description = parser.description()?;
        if parser.peek().kind != Kind::Name {
            return Err(parser.unexpected());
        }
        match parser.peek().text.as_str() {
            "schema" => {
                parser.next()?;
                document.schemas.push(parser.schema(description)?);
            }
            "directive" => document.directives.push(parser.directive_definition(description)?),
            "extend" => {
                if let Some(token) = described.filter(|token| !token.text.is_empty()) {
                    return Err(Parser::problem(&token, format!("Unexpected {token}")));
                }
                parser.next()?;
                parser.extension(&mut document)?;
            }
            word => match type_kind(word) {
                Some(kind) => {
                    parser.next()?;
                    document.definitions.push(parser.definition(kind, description, false)?);
                }
                None => return Err(parser.unexpected()),
            },
        }
    }
    Ok(document)
}

fn type_kind(word: &str) -> Option<TypeKind> {
    Some(match word {
        "scalar" => TypeKind::Scalar,
        "type" => TypeKind::Object,
        "interface" => TypeKind::Interface,
        "union" => TypeKind::Union,
        "enum" => TypeKind::Enum,
        "input" => TypeKind::InputObject,
        _ => return None,
    })
}

impl Parser<'_> {
    fn description(&mut self) -> Parsed<String> {
        match self.peek().kind {
            Kind::Text | Kind::BlockText => self.next().map(|token| token.text),
            _ => Ok(String::new()),
        }
    }

    fn schema(&mut self, description: String) -> Parsed<SchemaDefinition> {
        let at = self.at();
        let directives = self.directives(true)?;
        let roots = self.some(BRACES, |parser| {
            let at = parser.at();
            let operation = parser.operation_type()?;
            parser.expect(Kind::Colon)?;
            Ok(OperationType { at, operation, name: parser.name()? })
        })?;
        Ok(SchemaDefinition { at, description, directives, roots })
    }

    fn extension(&mut self, document: &mut SchemaDocument) -> Parsed<()> {
        let word = self.peek().text.clone();
        if word == "schema" {
            self.keyword("schema")?;
            let extension = self.schema(String::new())?;
            if extension.directives.is_empty() && extension.roots.is_empty() {
                return Err(self.unexpected());
            }
            document.schema_extensions.push(extension);
            return Ok(());
        }
        let kind = type_kind(&word).ok_or_else(|| self.unexpected())?;
        self.keyword(&word)?;
        let extension = self.definition(kind, String::new(), true)?;
        let has_body = match kind {
            TypeKind::Scalar => false,
            TypeKind::Object => !extension.fields.is_empty() || !extension.interfaces.is_empty(),
            TypeKind::Interface | TypeKind::InputObject => !extension.fields.is_empty(),
            TypeKind::Union => !extension.members.is_empty(),
            TypeKind::Enum => !extension.values.is_empty(),
        };
        if extension.directives.is_empty() && !has_body {
            return Err(self.unexpected());
        }
        document.extensions.push(extension);
        Ok(())
    }

    /// From the name on.
    fn definition(&mut self, kind: TypeKind, description: String, is_extension: bool) -> Parsed<Definition> {
        let mut found = Definition { at: self.at(), kind, description, ..Definition::default() };
        found.name = self.name()?;
        // An extension of an interface cannot add interfaces in OPA.
        if kind == TypeKind::Object || (kind == TypeKind::Interface && !is_extension) {
            found.interfaces = self.interfaces()?;
        }
        found.directives = self.directives(kind != TypeKind::InputObject || !is_extension)?;
        match kind {
            TypeKind::Scalar => {}
            TypeKind::Object | TypeKind::Interface => {
                found.fields = self.some(BRACES, Self::field_definition)?;
            }
            TypeKind::InputObject => {
                found.fields = self.some(BRACES, |parser| {
                    let input = parser.input_value()?;
                    Ok(FieldDefinition {
                        at: input.at,
                        description: input.description,
                        name: input.name,
                        arguments: Vec::new(),
                        default: input.default,
                        kind: input.kind,
                        directives: input.directives,
                    })
                })?;
            }
            TypeKind::Union => found.members = self.union_members()?,
            TypeKind::Enum => {
                found.values = self.some(BRACES, |parser| {
                    let description = parser.description()?;
                    let at = parser.at();
                    Ok(EnumValue {
                        at,
                        description,
                        name: parser.name()?,
                        directives: parser.directives(true)?,
                    })
                })?;
            }
        }
        Ok(found)
    }

    /// Between separators, of which one may lead.
    fn listed<T>(&mut self, separator: Kind, item: fn(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.skip(separator)?;
        let mut items = vec![item(self)?];
        while self.skip(separator)? {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn interfaces(&mut self) -> Parsed<Vec<String>> {
        if self.peek().text != "implements" {
            return Ok(Vec::new());
        }
        self.next()?;
        self.listed(Kind::Amp, Self::name)
    }

    fn union_members(&mut self) -> Parsed<Vec<Member>> {
        if !self.skip(Kind::Equals)? {
            return Ok(Vec::new());
        }
        self.listed(Kind::Pipe, |parser| Ok(Member { at: parser.at(), name: parser.name()? }))
    }

    fn field_definition(&mut self) -> Parsed<FieldDefinition> {
        let description = self.description()?;
        let at = self.at();
        let name = self.name()?;
        let arguments = self.argument_definitions()?;
        self.expect(Kind::Colon)?;
        Ok(FieldDefinition {
            at,
            description,
            name,
            arguments,
            default: None,
            kind: self.type_ref()?,
            directives: self.directives(true)?,
        })
    }

    fn argument_definitions(&mut self) -> Parsed<Vec<ArgumentDefinition>> {
        self.some((Kind::ParenL, Kind::ParenR), Self::input_value)
    }

    fn input_value(&mut self) -> Parsed<ArgumentDefinition> {
        let description = self.description()?;
        let at = self.at();
        let name = self.name()?;
        self.expect(Kind::Colon)?;
        Ok(ArgumentDefinition {
            at,
            description,
            name,
            kind: self.type_ref()?,
            default: self.default_value()?,
            directives: self.directives(true)?,
        })
    }

    fn directive_definition(&mut self, description: String) -> Parsed<DirectiveDefinition> {
        self.keyword("directive")?;
        self.expect(Kind::At)?;
        let at = self.at();
        let name = self.name()?;
        let arguments = self.argument_definitions()?;
        let is_repeatable = self.peek().kind == Kind::Name && self.peek().text == "repeatable";
        if is_repeatable {
            self.next()?;
        }
        self.keyword("on")?;
        let locations = self.listed(Kind::Pipe, Self::location)?;
        Ok(DirectiveDefinition { at, description, name, arguments, locations, is_repeatable })
    }

    fn location(&mut self) -> Parsed<String> {
        let token = self.expect(Kind::Name)?;
        if LOCATIONS.contains(&token.text.as_str()) {
            Ok(token.text)
        } else {
            Err(Self::problem(&token, format!("Unexpected {token}")))
        }
    }
}
