//! Whether a schema is one (October 2021, section 3), with OPA's messages. The first thing wrong ends it.

use std::collections::{HashMap, HashSet};

use super::ast::{
    ArgumentDefinition, Directive, DirectiveDefinition, FieldDefinition, LiteralKind, TypeKind, TypeRef,
};
use super::lexer::Position;
use super::parser::{Parsed, Problem};
use super::schema::{Schema, TypeDef, argument, argument_definition};

/// Fields of input objects that a cycle is followed through: it takes as much of the stack.
const MAX_INPUT_DEPTH: usize = 256;

pub fn validate(schema: &Schema) -> Parsed<()> {
    for definition in schema.types.values() {
        type_definition(schema, definition)?;
    }
    let mut cycles = Cycles { schema, seen: HashSet::new(), path: Vec::new() };
    for definition in schema.types.values().filter(|found| found.kind == TypeKind::InputObject) {
        cycles.follow(definition)?;
    }
    for (name, definition) in &schema.directives {
        not_reserved(definition.at, name)?;
        arguments(schema, &definition.arguments, Some(definition))?;
    }
    Ok(())
}

fn type_definition(schema: &Schema, found: &TypeDef) -> Parsed<()> {
    let location =
        if found.kind == TypeKind::InputObject { "INPUT_FIELD_DEFINITION" } else { "FIELD_DEFINITION" };
    for field in &found.fields {
        not_reserved(field.at, &field.name)?;
        type_exists(schema, &field.kind)?;
        arguments(schema, &field.arguments, None)?;
        directives(schema, &field.directives, location, None, true)?;
    }
    for member in &found.members {
        let Some(kind) = schema.types.get(member.name.as_str()).map(|member| member.kind) else {
            return Err(Problem::new(found.at, format!("Undefined type {:?}.", member.name)));
        };
        if kind != TypeKind::Object {
            let message = format!("{} type {:?} must be OBJECT.", found.kind.word(), member.name);
            return Err(Problem::new(found.at, message));
        }
    }
    for interface in &found.interfaces {
        implements(schema, found, interface)?;
    }
    contents(schema, found)?;
    if let Some(twice) = repeated(found.fields.iter().map(|field| field.name.as_str())) {
        let field = found.fields.get(twice);
        let (name, at) = field.map_or(("", None), |field| (field.name.as_str(), field.at));
        return Err(Problem::new(at, format!("Field {}.{name} can only be defined once.", found.name)));
    }
    if let Some(twice) = repeated(found.values.iter().map(|value| value.name.as_str())) {
        let value = found.values.get(twice);
        let (name, at) = value.map_or(("", None), |value| (value.name.as_str(), value.at));
        return Err(Problem::new(at, format!("Enum value {}.{name} can only be defined once.", found.name)));
    }
    if let Some(twice) = repeated(found.members.iter().map(|member| member.name.as_str())) {
        let member = found.members.get(twice);
        let (name, at) = member.map_or(("", None), |member| (member.name.as_str(), member.at));
        let message = format!("Union type {} can only include type {name} once.", found.name);
        return Err(Problem::new(at.or(found.at), message));
    }
    if !found.built_in {
        not_reserved(found.at, found.name)?;
    }
    directives(schema, found.directives.iter().copied(), found.kind.word(), None, false)
}

/// The second of the first pair of equal names.
fn repeated<'n>(names: impl Iterator<Item = &'n str>) -> Option<usize> {
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut pairs = Vec::new();
    for (index, name) in names.enumerate() {
        let earlier = *first.entry(name).or_insert(index);
        if earlier != index {
            pairs.push((earlier, index));
        }
    }
    pairs.into_iter().min().map(|(_, second)| second)
}

fn contents(schema: &Schema, found: &TypeDef) -> Parsed<()> {
    let (kind, name) = (found.kind.word(), found.name);
    let kind_of = |field: &FieldDefinition| schema.types.get(field.kind.base()).map(|kind| kind.kind);
    match found.kind {
        TypeKind::Object | TypeKind::Interface => {
            if found.fields.is_empty() {
                let message = format!("{kind} {name}: must define one or more fields.");
                return Err(Problem::new(found.at, message));
            }
            let input = |field: &&&FieldDefinition| kind_of(field) == Some(TypeKind::InputObject);
            if let Some(field) = found.fields.iter().find(input) {
                let kinds = "SCALAR, OBJECT, INTERFACE, UNION, ENUM";
                return Err(Problem::new(field.at, format!("{kind} {name}: field must be one of {kinds}.")));
            }
        }
        TypeKind::Enum => {
            if found.values.is_empty() {
                let message = format!("{kind} {name}: must define one or more unique enum values.");
                return Err(Problem::new(found.at, message));
            }
            for value in &found.values {
                if matches!(value.name.as_str(), "true" | "false" | "null") {
                    let message = format!("{kind} {name}: non-enum value {}.", value.name);
                    return Err(Problem::new(found.at, message));
                }
                directives(schema, &value.directives, "ENUM_VALUE", None, true)?;
            }
        }
        TypeKind::InputObject => {
            if found.fields.is_empty() {
                let message = format!("{kind} {name}: must define one or more input fields.");
                return Err(Problem::new(found.at, message));
            }
            for field in &found.fields {
                let Some(definition) = schema.types.get(field.kind.base()) else { continue };
                if !definition.is_input() {
                    let (kind, name) = (definition.kind.word(), &field.name);
                    let message = format!("{kind} {name}: field must be one of SCALAR, ENUM, INPUT_OBJECT.");
                    return Err(Problem::new(field.at, message));
                }
            }
        }
        TypeKind::Scalar | TypeKind::Union => {}
    }
    Ok(())
}

fn type_exists(schema: &Schema, kind: &TypeRef) -> Parsed<()> {
    let base = kind.base();
    if schema.types.contains_key(base) {
        return Ok(());
    }
    Err(Problem::new(kind.at, format!("Undefined type {base}.")))
}

fn not_reserved(at: Option<Position>, name: &str) -> Parsed<()> {
    if !name.starts_with("__") {
        return Ok(());
    }
    let message =
        format!("Name \"{name}\" must not begin with \"__\", which is reserved by GraphQL introspection.");
    Err(Problem::new(at, message))
}

fn arguments(
    schema: &Schema,
    arguments: &[ArgumentDefinition],
    inside: Option<&DirectiveDefinition>,
) -> Parsed<()> {
    for argument in arguments {
        not_reserved(argument.at, &argument.name)?;
        type_exists(schema, &argument.kind)?;
        let definition = schema.types.get(argument.kind.base());
        if let Some(definition) = definition.filter(|definition| !definition.is_input()) {
            let (kind, name) = (&argument.kind, &argument.name);
            let found = definition.kind.word();
            let message =
                format!("cannot use {kind} as argument {name} because {found} is not a valid input type");
            return Err(Problem::new(argument.at, message));
        }
        directives(schema, &argument.directives, "ARGUMENT_DEFINITION", inside, true)?;
    }
    Ok(())
}

/// `inside` is the directive whose own definition uses these. Those of a type come from several places, and may repeat.
pub fn directives<'d>(
    schema: &Schema,
    directives: impl IntoIterator<Item = &'d Directive>,
    location: &str,
    inside: Option<&DirectiveDefinition>,
    is_one_place: bool,
) -> Parsed<()> {
    let mut seen = HashSet::new();
    for directive in directives {
        let (name, at) = (directive.name.as_str(), directive.at);
        let problem = |message: String| Err(Problem::new(at, message));
        not_reserved(at, name)?;
        if inside.is_some_and(|inside| inside.name == name) {
            return problem(format!("Directive {name} cannot refer to itself."));
        }
        let Some(definition) = schema.directives.get(name) else {
            return problem(format!("Undefined directive {name}."));
        };
        if !seen.insert(name) && is_one_place && !definition.is_repeatable {
            return problem(format!("The directive {name} can only be used once at this location."));
        }
        if !definition.locations.iter().any(|found| found == location) {
            return problem(format!("Directive {name} is not applicable on {location}."));
        }
        schema.budget.spend(definition.arguments.len().saturating_mul(directive.arguments.len() + 1))?;
        for argument in &directive.arguments {
            if argument_definition(&definition.arguments, &argument.name).is_none() {
                let message = format!("Undefined argument {} for directive {name}.", argument.name);
                return Err(Problem::new(argument.at, message));
            }
        }
        for wanted in definition.arguments.iter().filter(|wanted| is_required(wanted)) {
            let given = argument(&directive.arguments, &wanted.name);
            if given.is_none_or(|given| given.value.kind == LiteralKind::Null) {
                return problem(format!("Argument {} for directive {name} cannot be null.", wanted.name));
            }
        }
    }
    Ok(())
}

pub fn is_required(argument: &ArgumentDefinition) -> bool {
    argument.kind.non_null && argument.default.is_none()
}

fn implements(schema: &Schema, found: &TypeDef, name: &str) -> Parsed<()> {
    let problem = |at: Option<Position>, message: String| Err(Problem::new(at, message));
    let Some(interface) = schema.types.get(name) else {
        return problem(found.at, format!("Undefined type {name:?}."));
    };
    if interface.kind != TypeKind::Interface {
        return problem(found.at, format!("{name:?} is a non interface type {}.", interface.kind.word()));
    }
    schema.budget.spend(interface.interfaces.len().saturating_mul(found.interfaces.len()))?;
    let prefix = format!("For {} to implement {name}", found.name);
    for wanted in &interface.fields {
        let Some(field) = found.field(&wanted.name) else {
            return problem(found.at, format!("{prefix} it must have a field called {}.", wanted.name));
        };
        let possible = schema.possible_types(wanted.kind.base()).len();
        let arguments = wanted.arguments.len().saturating_mul(field.arguments.len());
        schema.budget.spend(possible.saturating_add(arguments).saturating_add(1))?;
        if !is_covariant(schema, &wanted.kind, &field.kind) {
            let message = format!("{prefix} the field {} must have type {}.", wanted.name, wanted.kind);
            return problem(field.at, message);
        }
        let same = format!("{prefix} the field {} must have the same arguments but", wanted.name);
        for argument in &wanted.arguments {
            let Some(given) = argument_definition(&field.arguments, &argument.name) else {
                return problem(field.at, format!("{same} it is missing {}.", argument.name));
            };
            if !argument.kind.fits(&given.kind, given.kind.non_null) {
                return problem(given.at, format!("{same} {} has the wrong type.", argument.name));
            }
        }
        for given in field.arguments.iter().filter(|given| is_required(given)) {
            if argument_definition(&wanted.arguments, &given.name).is_none() {
                let message = format!(
                    "{prefix} any additional arguments on {} must be optional or have a default value but {} is \
                     required.",
                    field.name, given.name
                );
                return problem(given.at, message);
            }
        }
    }
    let missing = |name: &&&str| !found.interfaces.contains(name);
    match interface.interfaces.iter().find(missing) {
        None => Ok(()),
        Some(ancestor) if *ancestor == found.name => {
            let own = found.name;
            let message =
                format!("Type {own} cannot implement {name} because it would create a circular reference.");
            problem(found.at, message)
        }
        Some(ancestor) => {
            let own = found.name;
            let message =
                format!("Type {own} must implement {ancestor} because it is implemented by {name}.");
            problem(found.at, message)
        }
    }
}

fn is_covariant(schema: &Schema, wanted: &TypeRef, found: &TypeRef) -> bool {
    if wanted.non_null && !found.non_null {
        return false;
    }
    match (&wanted.item, &found.item) {
        (None, None) => {
            wanted.name == found.name || schema.possible_types(&wanted.name).contains(&found.name.as_str())
        }
        (Some(wanted), Some(found)) => is_covariant(schema, wanted, found),
        _ => false,
    }
}

/// Input objects that need themselves: no value of theirs could be written.
struct Cycles<'s, 'a> {
    schema: &'s Schema<'a>,
    seen: HashSet<&'s str>,
    /// Types and the field by which each goes on.
    path: Vec<(&'s str, &'s FieldDefinition)>,
}

impl<'s> Cycles<'s, '_> {
    fn follow(&mut self, definition: &'s TypeDef) -> Parsed<()> {
        if !self.seen.insert(definition.name) {
            return Ok(());
        }
        if self.path.len() >= MAX_INPUT_DEPTH {
            let message = format!("input objects need each other over more than {MAX_INPUT_DEPTH} levels.");
            return Err(Problem::new(definition.at, message));
        }
        for field in definition.fields.iter().filter(|field| field.kind.non_null && field.kind.item.is_none())
        {
            let Some(next) = self.schema.types.get(field.kind.name.as_str()) else { continue };
            if next.kind != TypeKind::InputObject {
                continue;
            }
            self.path.push((definition.name, field));
            if let Some(start) = self.path.iter().position(|(name, _)| *name == next.name) {
                let fields: Vec<&str> =
                    self.path.iter().skip(start).map(|(_, field)| field.name.as_str()).collect();
                let message = format!(
                    "Cannot reference Input Object {:?} within itself through a series of non-null fields: {:?}.",
                    next.name,
                    fields.join(".")
                );
                return Err(Problem::new(self.path.get(start).and_then(|(_, field)| field.at), message));
            }
            self.follow(next)?;
            self.path.pop();
        }
        Ok(())
    }
}
