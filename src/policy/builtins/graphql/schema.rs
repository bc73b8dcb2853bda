//! A schema put together of its definitions, extensions and the prelude, and looked up by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use super::ast::{
    Argument, ArgumentDefinition, Definition, Directive, DirectiveDefinition, EnumValue, FieldDefinition,
    Member, Operation, SchemaDefinition, SchemaDocument, TypeKind,
};
use super::lexer::Position;
use super::parser::{Budget, Parsed, Problem};
use super::sdl::parse_schema;
use super::validate_schema;

static PRELUDE: LazyLock<SchemaDocument> =
    LazyLock::new(|| parse_schema(include_str!("prelude.graphql")).unwrap_or_default());

/// Fields that every query and every object has.
static META: LazyLock<SchemaDocument> = LazyLock::new(|| {
    let meta =
        "type Root { __schema: __Schema! __type(name: String!): __Type } type Any { __typename: String }";
    parse_schema(meta).unwrap_or_default()
});

/// Directives that a schema may define once more; the last one counts.
const REDEFINABLE: [&str; 6] = ["include", "skip", "deprecated", "specifiedBy", "defer", "oneOf"];

/// A type with its extensions.
#[derive(Debug, Default)]
pub struct TypeDef<'a> {
    pub kind: TypeKind,
    pub name: &'a str,
    pub at: Option<Position>,
    pub built_in: bool,
    pub directives: Vec<&'a Directive>,
    pub interfaces: Vec<&'a str>,
    pub fields: Vec<&'a FieldDefinition>,
    pub members: Vec<&'a Member>,
    pub values: Vec<&'a EnumValue>,
    fields_by_name: HashMap<&'a str, &'a FieldDefinition>,
}

impl<'a> TypeDef<'a> {
    pub fn field(&self, name: &str) -> Option<&'a FieldDefinition> {
        self.fields_by_name.get(name).copied()
    }

    pub fn is_leaf(&self) -> bool {
        matches!(self.kind, TypeKind::Enum | TypeKind::Scalar)
    }

    pub fn is_composite(&self) -> bool {
        matches!(self.kind, TypeKind::Object | TypeKind::Interface | TypeKind::Union)
    }

    pub fn is_input(&self) -> bool {
        matches!(self.kind, TypeKind::Scalar | TypeKind::Enum | TypeKind::InputObject)
    }

    fn extend(&mut self, with: &'a Definition) {
        self.directives.extend(&with.directives);
        self.interfaces.extend(with.interfaces.iter().map(String::as_str));
        self.members.extend(&with.members);
        self.values.extend(&with.values);
        for field in &with.fields {
            self.add_field(field);
        }
    }

    fn add_field(&mut self, field: &'a FieldDefinition) {
        self.fields.push(field);
        self.fields_by_name.entry(&field.name).or_insert(field);
    }
}

#[derive(Debug, Default)]
pub struct Schema<'a> {
    pub types: BTreeMap<&'a str, TypeDef<'a>>,
    pub directives: BTreeMap<&'a str, &'a DirectiveDefinition>,
    /// Of a union or an interface, and of an object itself.
    pub possible: HashMap<&'a str, Vec<&'a str>>,
    query: Option<&'a str>,
    mutation: Option<&'a str>,
    subscription: Option<&'a str>,
    pub budget: Budget,
}

impl<'a> Schema<'a> {
    /// # Errors
    /// The first thing wrong with the schema.
    pub fn of(document: &'a SchemaDocument) -> Parsed<Self> {
        Self::built(document, validate_schema::validate)
    }

    /// Of a document that has been found valid.
    ///
    /// # Errors
    /// It has not.
    pub fn of_valid(document: &'a SchemaDocument) -> Parsed<Self> {
        Self::built(document, |_| Ok(()))
    }

    fn built(document: &'a SchemaDocument, validate: fn(&Self) -> Parsed<()>) -> Parsed<Self> {
        let mut schema = Self::default();
        schema.add_types(document)?;
        for directive in PRELUDE.directives.iter().chain(&document.directives) {
            let is_first = schema.directives.insert(&directive.name, directive).is_none();
            if !is_first && !REDEFINABLE.contains(&directive.name.as_str()) {
                let message = format!("Cannot redeclare directive {}.", directive.name);
                return Err(Problem::new(directive.at, message));
            }
        }
        if let [_, second, ..] = document.schemas.as_slice() {
            let message = "Cannot have multiple schema entry points, consider schema extensions instead.";
            return Err(Problem::new(second.at, message));
        }
        for definition in document.schemas.iter().chain(&document.schema_extensions) {
            schema.add_roots(definition)?;
        }
        validate(&schema)?;
        if document.schemas.is_empty() {
            let named = |name: &'static str| schema.types.contains_key(name).then_some(name);
            schema.query = schema.query.or(named("Query"));
            schema.mutation = schema.mutation.or(named("Mutation"));
            schema.subscription = schema.subscription.or(named("Subscription"));
        }
        if let Some(query) = schema.query.and_then(|name| schema.types.get_mut(name)) {
            META.definitions
                .iter()
                .take(1)
                .flat_map(|root| &root.fields)
                .for_each(|field| query.add_field(field));
        }
        Ok(schema)
    }

    fn add_types(&mut self, document: &'a SchemaDocument) -> Parsed<()> {
        let mut order = Vec::new();
        for (prelude, definition) in PRELUDE
            .definitions
            .iter()
            .map(|definition| (true, definition))
            .chain(document.definitions.iter().map(|definition| (false, definition)))
        {
            let name = definition.name.as_str();
            if self.types.contains_key(name) {
                return Err(Problem::new(definition.at, format!("Cannot redeclare type {name}.")));
            }
            let mut found = TypeDef {
                kind: definition.kind,
                name,
                at: definition.at,
                built_in: prelude || definition.built_in,
                ..TypeDef::default()
            };
            found.extend(definition);
            self.types.insert(name, found);
            order.push(name);
        }
        for extension in &document.extensions {
            let name = extension.name.as_str();
            let found = self.types.entry(name).or_insert_with(|| {
                order.push(name);
                TypeDef { kind: extension.kind, name, at: extension.at, ..TypeDef::default() }
            });
            if found.kind != extension.kind {
                let (base, other) = (found.kind.word(), extension.kind.word());
                let message =
                    format!("Cannot extend type {name} because the base type is a {base}, not {other}.");
                return Err(Problem::new(extension.at, message));
            }
            found.extend(extension);
        }
        for found in order.iter().filter_map(|name| self.types.get(name)) {
            if found.kind == TypeKind::Union {
                self.possible
                    .entry(found.name)
                    .or_default()
                    .extend(found.members.iter().map(|member| member.name.as_str()));
            }
            for interface in &found.interfaces {
                self.possible.entry(interface).or_default().push(found.name);
            }
            if matches!(found.kind, TypeKind::InputObject | TypeKind::Object) {
                self.possible.entry(found.name).or_default().push(found.name);
            }
        }
        Ok(())
    }

    fn add_roots(&mut self, definition: &'a SchemaDefinition) -> Parsed<()> {
        for root in &definition.roots {
            if !self.types.contains_key(root.name.as_str()) {
                let operation = root.operation.word();
                let name = &root.name;
                let message = format!("Schema root {operation} refers to a type {name} that does not exist.");
                return Err(Problem::new(root.at, message));
            }
            *match root.operation {
                Operation::Query => &mut self.query,
                Operation::Mutation => &mut self.mutation,
                Operation::Subscription => &mut self.subscription,
            } = Some(&root.name);
        }
        validate_schema::directives(self, &definition.directives, "SCHEMA", None, true)
    }

    pub fn root(&self, operation: Operation) -> Option<&TypeDef<'a>> {
        let name = match operation {
            Operation::Query => self.query,
            Operation::Mutation => self.mutation,
            Operation::Subscription => self.subscription,
        };
        self.types.get(name?)
    }

    pub fn possible_types(&self, name: &str) -> &[&'a str] {
        self.possible.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

/// The definition of `__typename`.
pub fn type_name_field() -> Option<&'static FieldDefinition> {
    META.definitions.get(1).and_then(|any| any.fields.first())
}

pub fn argument<'a>(arguments: &'a [Argument], name: &str) -> Option<&'a Argument> {
    arguments.iter().find(|argument| argument.name == name)
}

pub fn argument_definition<'a>(
    arguments: &'a [ArgumentDefinition],
    name: &str,
) -> Option<&'a ArgumentDefinition> {
    arguments.iter().find(|argument| argument.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prelude_is_a_schema() {
        assert_eq!(PRELUDE.definitions.len(), 13);
        assert_eq!(META.definitions.len(), 2);
        assert!(type_name_field().is_some());
        let document = SchemaDocument::default();
        assert!(Schema::of(&document).is_ok());
    }
}
