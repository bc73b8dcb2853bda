//! Whether a query is one for a schema: the walk through its selections, which asks the rules in the order in which
//! OPA asks them. The first problem ends it; OPA shows no other.
//!
//! Fragments make long walks of short queries: steps and depth are bounded.

use std::collections::{HashMap, HashSet};

use super::ast::{
    Argument, ArgumentDefinition, Directive, FieldDefinition, FragmentDefinition, Literal, LiteralKind,
    Operation, OperationDefinition, QueryDocument, Selection,
};
use super::overlap::{Overlap, definition_of};
use super::parser::{Budget, Parsed, Problem};
use super::rules;
use super::schema::{Schema, TypeDef, argument_definition};
use super::values::{self, Expected};

/// Selections inside each other, through fragments too.
const MAX_DEPTH: usize = 512;

pub fn validate<'a>(schema: &'a Schema<'a>, document: &'a QueryDocument) -> Parsed<()> {
    let mut fragments = HashMap::new();
    for fragment in &document.fragments {
        fragments.entry(fragment.name.as_str()).or_insert(fragment);
    }
    let mut walker = Walker {
        schema,
        document,
        overlap: Overlap::new(schema, fragments.clone()),
        fragments,
        operation: None,
        variables: HashMap::new(),
        used: HashSet::new(),
        entered: HashSet::new(),
        spread: HashSet::new(),
        acyclic: HashSet::new(),
        names: HashSet::new(),
        depth: 0,
        budget: Budget::default(),
    };
    for operation in &document.operations {
        walker.entered.clear();
        walker.operation(operation)?;
    }
    walker.operation = None;
    walker.names.clear();
    for fragment in &document.fragments {
        walker.entered.clear();
        walker.fragment(fragment)?;
    }
    Ok(())
}

pub struct Walker<'a> {
    pub schema: &'a Schema<'a>,
    pub document: &'a QueryDocument,
    pub fragments: HashMap<&'a str, &'a FragmentDefinition>,
    overlap: Overlap<'a>,
    /// None in fragments by themselves.
    operation: Option<&'a OperationDefinition>,
    /// Of the operation, the first of each name.
    variables: HashMap<&'a str, usize>,
    pub used: HashSet<usize>,
    /// Fragments that were walked through spreads of this operation.
    entered: HashSet<&'a str>,
    /// Fragments that operations reach.
    pub spread: HashSet<&'a str>,
    /// Fragments that cycles were looked for in.
    pub acyclic: HashSet<&'a str>,
    /// Operations met so far; then fragments.
    pub names: HashSet<&'a str>,
    depth: usize,
    pub budget: Budget,
}

impl<'a> Walker<'a> {
    pub fn type_of(&self, name: &str) -> Option<&'a TypeDef<'a>> {
        self.schema.types.get(name)
    }

    pub fn enter(&mut self) -> Parsed<()> {
        self.budget.spend(1)?;
        self.depth += 1;
        if self.depth < MAX_DEPTH {
            return Ok(());
        }
        Err(Problem::new(None, format!("selections are nested deeper than {MAX_DEPTH} levels")))
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    fn operation(&mut self, operation: &'a OperationDefinition) -> Parsed<()> {
        self.operation = Some(operation);
        self.variables.clear();
        self.used.clear();
        for (index, variable) in operation.variables.iter().enumerate() {
            self.variables.entry(&variable.name).or_insert(index);
        }
        for variable in &operation.variables {
            if self.type_of(variable.kind.base()).is_none() {
                let message = format!("Unknown type \"{}\".", variable.kind.base());
                return Err(Problem::new(variable.at, message));
            }
        }
        for variable in &operation.variables {
            if let Some(default) = &variable.default {
                let definition = self.type_of(variable.kind.base());
                let expected = Expected { kind: &variable.kind, definition, has_default: false };
                self.literal(default, Some(expected))?;
            }
            self.directives(&variable.directives, "VARIABLE_DEFINITION")?;
        }
        let location = match operation.operation {
            Operation::Query => "QUERY",
            Operation::Mutation => "MUTATION",
            Operation::Subscription => "SUBSCRIPTION",
        };
        let root = self.schema.root(operation.operation);
        self.directives(&operation.directives, location)?;
        self.selections(root, &operation.selections)?;
        rules::operation(self, operation)?;
        self.overlap.check(&operation.selections, root)?;
        rules::operation_after_overlap(self, operation)
    }

    fn fragment(&mut self, fragment: &'a FragmentDefinition) -> Parsed<()> {
        let definition = self.type_of(&fragment.condition);
        self.directives(&fragment.directives, "FRAGMENT_DEFINITION")?;
        self.selections(definition, &fragment.selections)?;
        rules::fragment(self, fragment, definition)?;
        self.overlap.check(&fragment.selections, definition)?;
        if self.names.insert(&fragment.name) {
            return Ok(());
        }
        let message = format!("There can be only one fragment named \"{}\".", fragment.name);
        Err(Problem::new(fragment.at, message))
    }

    fn arguments(
        &mut self,
        definitions: Option<&'a [ArgumentDefinition]>,
        given: &'a [Argument],
    ) -> Parsed<()> {
        self.budget.spend(definitions.map_or(1, <[_]>::len).saturating_mul(given.len()))?;
        for argument in given {
            let definition =
                definitions.and_then(|definitions| argument_definition(definitions, &argument.name));
            let expected = definition.map(|definition| Expected {
                kind: &definition.kind,
                definition: self.type_of(definition.kind.base()),
                has_default: has_default(definition.default.as_ref()),
            });
            self.literal(&argument.value, expected)?;
        }
        Ok(())
    }

    fn directives(&mut self, directives: &'a [Directive], location: &str) -> Parsed<()> {
        for directive in directives {
            let definition = self.schema.directives.get(directive.name.as_str()).copied();
            self.arguments(definition.map(|found| found.arguments.as_slice()), &directive.arguments)?;
            rules::directive(directive, definition, location)?;
        }
        let mut seen = HashSet::new();
        for directive in directives {
            let definition = self.schema.directives.get(directive.name.as_str());
            let is_repeatable = definition.is_some_and(|definition| definition.is_repeatable);
            if !seen.insert(directive.name.as_str()) && !is_repeatable {
                let message =
                    format!("The directive \"@{}\" can only be used once at this location.", directive.name);
                return Err(Problem::new(directive.at, message));
            }
        }
        Ok(())
    }

    fn literal(&mut self, literal: &'a Literal, expected: Option<Expected<'a>>) -> Parsed<()> {
        // Reading its numbers looks at all of it once per level.
        self.budget.spend(1 + literal.children.len())?;
        let variable =
            self.operation.filter(|_| literal.kind == LiteralKind::Variable).and_then(|operation| {
                let index = *self.variables.get(literal.raw.as_str())?;
                self.used.insert(index);
                operation.variables.get(index)
            });
        for child in &literal.children {
            let inside = match literal.kind {
                LiteralKind::Object => expected.and_then(|expected| {
                    let field = expected.definition?.field(&child.name)?;
                    Some(Expected {
                        kind: &field.kind,
                        definition: self.type_of(field.kind.base()),
                        has_default: has_default(field.default.as_ref()),
                    })
                }),
                LiteralKind::List => expected.and_then(|expected| {
                    let kind = expected.kind.item.as_deref()?;
                    Some(Expected { kind, definition: expected.definition, has_default: false })
                }),
                _ => continue,
            };
            self.literal(&child.value, inside)?;
        }
        if let Some(operation) = self.operation
            && literal.kind == LiteralKind::Variable
            && variable.is_none()
        {
            let place = if operation.name.is_empty() {
                String::new()
            } else {
                format!(" by operation \"{}\"", operation.name)
            };
            return Err(Problem::new(literal.at, format!("Variable \"{literal}\" is not defined{place}.")));
        }
        values::unique_members(literal)?;
        let Some(expected) = expected else { return Ok(()) };
        values::correct_type(literal, &expected)?;
        if let Some(variable) = variable {
            let has_default = has_default(variable.default.as_ref()) || expected.has_default;
            if !variable.kind.fits(expected.kind, expected.kind.non_null && !has_default) {
                let message = format!(
                    "Variable \"{literal}\" of type \"{}\" used in position expecting type \"{}\".",
                    variable.kind, expected.kind
                );
                return Err(Problem::new(literal.at, message));
            }
        }
        self.one_of(literal, &expected)
    }

    /// A variable as the one member of a `@oneOf` object cannot be null.
    fn one_of(&self, literal: &Literal, expected: &Expected) -> Parsed<()> {
        let is_one_of = |found: &TypeDef| found.directives.iter().any(|directive| directive.name == "oneOf");
        let Some(definition) = expected.definition.filter(|found| is_one_of(found)) else { return Ok(()) };
        if literal.kind != LiteralKind::Object {
            return Ok(());
        }
        for child in literal.children.iter().filter(|child| child.value.kind == LiteralKind::Variable) {
            let index = self.variables.get(child.value.raw.as_str());
            let variable = self.operation.zip(index).and_then(|(found, index)| found.variables.get(*index));
            if let Some(variable) = variable.filter(|variable| !variable.kind.non_null) {
                let message = format!(
                    "Variable \"{}\" is of type \"{}\" but must be non-nullable to be used for OneOf Input Object \
                     \"{}\".",
                    child.value, variable.kind, definition.name
                );
                return Err(Problem::new(variable.at, message));
            }
        }
        Ok(())
    }

    fn selections(&mut self, parent: Option<&'a TypeDef<'a>>, selections: &'a [Selection]) -> Parsed<()> {
        self.enter()?;
        for selection in selections {
            self.budget.spend(1)?;
            self.selection(parent, selection)?;
        }
        self.leave();
        Ok(())
    }

    fn selection(&mut self, parent: Option<&'a TypeDef<'a>>, selection: &'a Selection) -> Parsed<()> {
        match selection {
            Selection::Field(field) => {
                let definition: Option<&'a FieldDefinition> = definition_of(parent, field);
                let under = definition.and_then(|definition| self.type_of(definition.kind.base()));
                self.arguments(definition.map(|found| found.arguments.as_slice()), &field.arguments)?;
                self.directives(&field.directives, "FIELD")?;
                self.selections(under, &field.selections)?;
                rules::field(self, field, parent, definition)?;
                self.overlap.check(&field.selections, under)?;
                rules::field_after_overlap(self, field, definition)
            }
            Selection::Inline(inline) => {
                let condition = inline.condition.as_str();
                let under = if condition.is_empty() { parent } else { self.type_of(condition) };
                self.directives(&inline.directives, "INLINE_FRAGMENT")?;
                self.selections(under, &inline.selections)?;
                rules::inline(self, inline)?;
                self.overlap.check(&inline.selections, under)?;
                rules::possible_inline(self, inline, parent)
            }
            Selection::Spread(spread) => {
                let fragment = self.fragments.get(spread.name.as_str()).copied();
                let under = fragment.and_then(|fragment| self.type_of(&fragment.condition));
                self.directives(&spread.directives, "FRAGMENT_SPREAD")?;
                if let Some(fragment) = fragment
                    && self.entered.insert(&fragment.name)
                {
                    self.directives(&fragment.directives, "FRAGMENT_DEFINITION")?;
                    self.selections(under, &fragment.selections)?;
                }
                let Some(fragment) = fragment else {
                    return Err(Problem::new(spread.at, format!("Unknown fragment \"{}\".", spread.name)));
                };
                // What only fragments reach is not used.
                if self.operation.is_some() {
                    self.spread.insert(&spread.name);
                }
                rules::possible_spread(self, spread, parent, fragment)
            }
        }
    }
}

fn has_default(default: Option<&Literal>) -> bool {
    default.is_some_and(|default| default.kind != LiteralKind::Null)
}
