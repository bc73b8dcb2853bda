//! Rules on operations, fields, directives and fragments (October 2021, section 5), with OPA's messages. Those on
//! literals are in `values`, those on merging in `overlap`.

use std::collections::{HashMap, HashSet};

use super::ast::{
    Argument, Directive, DirectiveDefinition, Field, FieldDefinition, FragmentDefinition, FragmentSpread,
    InlineFragment, Operation, OperationDefinition, Selection, TypeKind,
};
use super::lexer::Position;
use super::parser::{Parsed, Problem};
use super::schema::{TypeDef, argument, argument_definition};
use super::suggest::{did_you_mean, listed};
use super::validate_query::Walker;
use super::validate_schema::is_required;

/// Lists of the introspection inside each other from which on a query is refused.
const MAX_INTROSPECTION_LISTS: usize = 3;

fn problem(at: Option<Position>, message: String) -> Parsed<()> {
    Err(Problem::new(at, message))
}

pub fn operation(walker: &mut Walker, operation: &OperationDefinition) -> Parsed<()> {
    if walker.schema.root(operation.operation).is_none() {
        let word = operation.operation.word();
        return problem(operation.at, format!("Schema does not support operation type \"{word}\""));
    }
    if operation.name.is_empty() && walker.document.operations.len() > 1 {
        return problem(
            operation.at,
            "This anonymous operation must be the only defined operation.".to_owned(),
        );
    }
    let unused = operation.variables.iter().enumerate().find(|(index, _)| !walker.used.contains(index));
    if let Some((_, variable)) = unused {
        let place = if operation.name.is_empty() {
            String::new()
        } else {
            format!(" in operation \"{}\"", operation.name)
        };
        return problem(variable.at, format!("Variable \"${}\" is never used{place}.", variable.name));
    }
    Ok(())
}

pub fn operation_after_overlap<'a>(
    walker: &mut Walker<'a>,
    operation: &'a OperationDefinition,
) -> Parsed<()> {
    if operation.operation == Operation::Subscription {
        single_field(walker, operation)?;
    }
    if !walker.names.insert(&operation.name) {
        return problem(
            operation.at,
            format!("There can be only one operation named \"{}\".", operation.name),
        );
    }
    let mut seen = HashSet::new();
    for variable in &operation.variables {
        if !seen.insert(variable.name.as_str()) {
            return problem(
                variable.at,
                format!("There can be only one variable named \"${}\".", variable.name),
            );
        }
    }
    for variable in &operation.variables {
        if walker.type_of(variable.kind.base()).is_some_and(|definition| !definition.is_input()) {
            let (name, kind) = (&variable.name, &variable.kind);
            return problem(
                variable.at,
                format!("Variable \"${name}\" cannot be non-input type \"{kind}\"."),
            );
        }
    }
    Ok(())
}

fn single_field<'a>(walker: &mut Walker<'a>, operation: &'a OperationDefinition) -> Parsed<()> {
    let mut fields: Vec<&Field> = Vec::new();
    top_fields(walker, &operation.selections, &mut fields, &mut HashSet::new())?;
    let mut seen = HashSet::new();
    fields.retain(|field| seen.insert(field.name.as_str()));
    let name = if operation.name.is_empty() {
        "Anonymous Subscription".to_owned()
    } else {
        format!("Subscription {:?}", operation.name)
    };
    if let [_, second, ..] = fields.as_slice() {
        return problem(second.at, format!("{name} must select only one top level field."));
    }
    match fields.first().filter(|field| field.name.starts_with("__")) {
        Some(field) => problem(field.at, format!("{name} must not select an introspection top level field.")),
        None => Ok(()),
    }
}

fn top_fields<'a>(
    walker: &mut Walker<'a>,
    selections: &'a [Selection],
    fields: &mut Vec<&'a Field>,
    entered: &mut HashSet<&'a str>,
) -> Parsed<()> {
    walker.enter()?;
    for selection in selections {
        walker.budget.spend(1)?;
        match selection {
            Selection::Field(field) => fields.push(field),
            Selection::Inline(inline) => top_fields(walker, &inline.selections, fields, entered)?,
            Selection::Spread(spread) => {
                let Some(fragment) = walker.fragments.get(spread.name.as_str()).copied() else { break };
                if entered.insert(&fragment.name) {
                    top_fields(walker, &fragment.selections, fields, entered)?;
                }
            }
        }
    }
    walker.leave();
    Ok(())
}

pub fn field<'a>(
    walker: &mut Walker<'a>,
    field: &'a Field,
    parent: Option<&'a TypeDef<'a>>,
    definition: Option<&'a FieldDefinition>,
) -> Parsed<()> {
    if let (Some(parent), None) = (parent, definition) {
        return unknown_field(walker, field, parent);
    }
    if let (Some(parent), Some(definition)) = (parent, definition) {
        let unknown = |found: &&Argument| argument_definition(&definition.arguments, &found.name).is_none();
        if let Some(unknown) = field.arguments.iter().find(unknown) {
            let names = definition.arguments.iter().map(|known| known.name.as_str());
            let mean = did_you_mean("Did you mean", &unknown.name, names);
            let (argument, name) = (&unknown.name, &field.name);
            let message =
                format!("Unknown argument \"{argument}\" on field \"{}.{name}\".{mean}", parent.name);
            return problem(field.at, message);
        }
    }
    if matches!(field.name.as_str(), "__schema" | "__type") && is_deep(walker, field, &mut HashSet::new(), 0)?
    {
        return problem(field.at, "Maximum introspection depth exceeded".to_owned());
    }
    Ok(())
}

fn unknown_field<'a>(walker: &Walker<'a>, field: &Field, parent: &'a TypeDef<'a>) -> Parsed<()> {
    let names = types_with_field(walker, parent, &field.name)?;
    let mut mean = listed("Did you mean to use an inline fragment on", &names);
    if mean.is_empty() && matches!(parent.kind, TypeKind::Object | TypeKind::Interface) {
        let names = parent.fields.iter().map(|field| field.name.as_str());
        mean = did_you_mean("Did you mean", &field.name, names);
    }
    let message = format!("Cannot query field \"{}\" on type \"{}\".{mean}", field.name, parent.name);
    problem(field.at, message)
}

/// Of the types that an abstract one can be, those with the field; interfaces that most of them share first.
fn types_with_field<'a>(walker: &Walker<'a>, parent: &'a TypeDef<'a>, name: &str) -> Parsed<Vec<String>> {
    if !matches!(parent.kind, TypeKind::Interface | TypeKind::Union) {
        return Ok(Vec::new());
    }
    let (mut found, mut uses): (Vec<&str>, HashMap<&str, usize>) = (Vec::new(), HashMap::new());
    for possible in walker.schema.possible_types(parent.name) {
        let has_field = |found: &&TypeDef| found.field(name).is_some();
        let Some(possible) = walker.type_of(possible).filter(has_field) else { continue };
        walker.budget.spend(1 + possible.interfaces.len())?;
        found.push(possible.name);
        for interface in possible.interfaces.iter().filter_map(|interface| walker.type_of(interface)) {
            if has_field(&interface) {
                let count = uses.entry(interface.name).or_default();
                if *count == 0 {
                    found.push(interface.name);
                }
                *count += 1;
            }
        }
    }
    let count = |name: &str| uses.get(name).copied().unwrap_or_default();
    found.sort_by(|a, b| count(b).cmp(&count(a)).then(a.cmp(b)));
    Ok(found.into_iter().map(|name| format!("\"{name}\"")).collect())
}

fn is_deep<'a>(
    walker: &mut Walker<'a>,
    field: &'a Field,
    inside: &mut HashSet<&'a str>,
    lists: usize,
) -> Parsed<bool> {
    let is_list = matches!(field.name.as_str(), "fields" | "interfaces" | "possibleTypes" | "inputFields");
    let lists = lists + usize::from(is_list);
    if lists >= MAX_INTROSPECTION_LISTS {
        return Ok(true);
    }
    are_deep(walker, &field.selections, inside, lists)
}

fn are_deep<'a>(
    walker: &mut Walker<'a>,
    selections: &'a [Selection],
    inside: &mut HashSet<&'a str>,
    lists: usize,
) -> Parsed<bool> {
    walker.enter()?;
    for selection in selections {
        walker.budget.spend(1)?;
        let found = match selection {
            Selection::Field(field) => is_deep(walker, field, inside, lists)?,
            Selection::Inline(inline) => are_deep(walker, &inline.selections, inside, lists)?,
            Selection::Spread(spread) => {
                let Some(fragment) = walker.fragments.get(spread.name.as_str()).copied() else { continue };
                if !inside.insert(&fragment.name) {
                    continue;
                }
                let found = are_deep(walker, &fragment.selections, inside, lists)?;
                inside.remove(fragment.name.as_str());
                found
            }
        };
        if found {
            return Ok(true);
        }
    }
    walker.leave();
    Ok(false)
}

pub fn field_after_overlap(
    walker: &Walker,
    field: &Field,
    definition: Option<&FieldDefinition>,
) -> Parsed<()> {
    if let Some(definition) = definition {
        let is_missing = |name: &str| argument(&field.arguments, name).is_none();
        let required = definition.arguments.iter().filter(|wanted| is_required(wanted));
        if let Some(wanted) = required.into_iter().find(|wanted| is_missing(&wanted.name)) {
            let message = format!(
                "Field \"{}\" argument \"{}\" of type \"{}\" is required, but it was not provided.",
                field.name, wanted.name, wanted.kind
            );
            return problem(field.at, message);
        }
        let name = &field.name;
        match walker.type_of(definition.kind.base()) {
            Some(kind) if kind.is_leaf() && !field.selections.is_empty() => {
                let kind = kind.name;
                let message = format!(
                    "Field \"{name}\" must not have a selection since type \"{kind}\" has no subfields."
                );
                return problem(field.at, message);
            }
            Some(kind) if !kind.is_leaf() && field.selections.is_empty() => {
                let message = format!(
                    "Field \"{name}\" of type \"{}\" must have a selection of subfields. Did you mean \"{name} {{ ... \
                     }}\"?",
                    definition.kind
                );
                return problem(field.at, message);
            }
            _ => {}
        }
    }
    unique_arguments(&field.arguments)
}

fn unique_arguments(arguments: &[Argument]) -> Parsed<()> {
    let mut seen = HashSet::new();
    match arguments.iter().find(|argument| !seen.insert(argument.name.as_str())) {
        None => Ok(()),
        Some(twice) => problem(twice.at, format!("There can be only one argument named \"{}\".", twice.name)),
    }
}

pub fn directive(
    directive: &Directive,
    definition: Option<&DirectiveDefinition>,
    location: &str,
) -> Parsed<()> {
    let name = &directive.name;
    let Some(definition) = definition else {
        return problem(directive.at, format!("Unknown directive \"@{name}\"."));
    };
    let unknown = |found: &&Argument| argument_definition(&definition.arguments, &found.name).is_none();
    if let Some(unknown) = directive.arguments.iter().find(unknown) {
        let names = definition.arguments.iter().map(|known| known.name.as_str());
        let mean = did_you_mean("Did you mean", &unknown.name, names);
        let message = format!("Unknown argument \"{}\" on directive \"@{name}\".{mean}", unknown.name);
        return problem(directive.at, message);
    }
    if !definition.locations.iter().any(|found| found == location) {
        return problem(directive.at, format!("Directive \"@{name}\" may not be used on {location}."));
    }
    let is_missing = |name: &str| argument(&directive.arguments, name).is_none();
    let mut required = definition.arguments.iter().filter(|wanted| is_required(wanted));
    if let Some(wanted) = required.find(|wanted| is_missing(&wanted.name)) {
        let message = format!(
            "Directive \"@{name}\" argument \"{}\" of type \"{}\" is required, but it was not provided.",
            wanted.name, wanted.kind
        );
        return problem(directive.at, message);
    }
    unique_arguments(&directive.arguments)
}

pub fn fragment<'a>(
    walker: &mut Walker<'a>,
    fragment: &'a FragmentDefinition,
    definition: Option<&TypeDef>,
) -> Parsed<()> {
    let (name, condition) = (&fragment.name, &fragment.condition);
    match definition {
        Some(definition) if !definition.is_composite() => {
            let message =
                format!("Fragment \"{name}\" cannot condition on non composite type \"{condition}\".");
            return problem(fragment.at, message);
        }
        Some(_) => {}
        None => {
            let mean = did_you_mean("Did you mean", condition, walker.schema.types.keys().copied());
            return problem(fragment.at, format!("Unknown type \"{condition}\".{mean}"));
        }
    }
    cycle(walker, fragment, &mut Vec::new())?;
    if walker.spread.contains(name.as_str()) {
        return Ok(());
    }
    problem(fragment.at, format!("Fragment \"{name}\" is never used."))
}

/// `path` are the fragments on the way, and the spread by which each goes on.
fn cycle<'a>(
    walker: &mut Walker<'a>,
    fragment: &'a FragmentDefinition,
    path: &mut Vec<(&'a str, &'a str)>,
) -> Parsed<()> {
    if !walker.acyclic.insert(&fragment.name) {
        return Ok(());
    }
    walker.enter()?;
    for spread in spreads(walker, &fragment.selections)? {
        let name = spread.name.as_str();
        path.push((&fragment.name, name));
        if let Some(start) = path.iter().position(|(inside, _)| *inside == name) {
            let on_the_way = path.iter().skip(start).rev().skip(1).rev();
            let names: Vec<String> = on_the_way.map(|(_, spread)| format!("\"{spread}\"")).collect();
            let via = if names.is_empty() { String::new() } else { format!(" via {}", names.join(", ")) };
            return problem(spread.at, format!("Cannot spread fragment \"{name}\" within itself{via}."));
        }
        if let Some(next) = walker.fragments.get(name).copied() {
            cycle(walker, next, path)?;
        }
        path.pop();
    }
    walker.leave();
    Ok(())
}

/// Those in it at any depth, in OPA's order: its own, then those of its last selection first.
fn spreads<'a>(walker: &Walker<'a>, selections: &'a [Selection]) -> Parsed<Vec<&'a FragmentSpread>> {
    let mut found = Vec::new();
    let mut left = vec![selections];
    while let Some(selections) = left.pop() {
        walker.budget.spend(selections.len())?;
        for selection in selections {
            match selection {
                Selection::Spread(spread) => found.push(spread),
                Selection::Field(field) => left.push(&field.selections),
                Selection::Inline(inline) => left.push(&inline.selections),
            }
        }
    }
    Ok(found)
}

pub fn inline(walker: &Walker, inline: &InlineFragment) -> Parsed<()> {
    let condition = &inline.condition;
    match walker.type_of(condition) {
        Some(definition) if !definition.is_composite() => {
            problem(inline.at, format!("Fragment cannot condition on non composite type \"{condition}\"."))
        }
        None if !condition.is_empty() => problem(inline.at, format!("Unknown type \"{condition}\".")),
        _ => Ok(()),
    }
}

pub fn possible_inline(walker: &Walker, inline: &InlineFragment, parent: Option<&TypeDef>) -> Parsed<()> {
    let Some(parent) = parent else { return Ok(()) };
    if is_possible(walker, parent, &inline.condition)? {
        return Ok(());
    }
    let (parent, condition) = (parent.name, &inline.condition);
    let message = format!(
        "Fragment cannot be spread here as objects of type \"{parent}\" can never be of type \"{condition}\"."
    );
    problem(inline.at, message)
}

pub fn possible_spread(
    walker: &Walker,
    spread: &FragmentSpread,
    parent: Option<&TypeDef>,
    fragment: &FragmentDefinition,
) -> Parsed<()> {
    let Some(parent) = parent else { return Ok(()) };
    if is_possible(walker, parent, &fragment.condition)? {
        return Ok(());
    }
    let (name, parent, condition) = (&spread.name, parent.name, &fragment.condition);
    let message = format!(
        "Fragment \"{name}\" cannot be spread here as objects of type \"{parent}\" can never be of type \
         \"{condition}\"."
    );
    problem(spread.at, message)
}

/// Whether an object can be of both types. What is wrong in itself is said by other rules.
fn is_possible(walker: &Walker, parent: &TypeDef, condition: &str) -> Parsed<bool> {
    let Some(fragment) =
        walker.type_of(condition).filter(|found| found.is_composite() && parent.is_composite())
    else {
        return Ok(true);
    };
    let fragments = walker.schema.possible_types(fragment.name);
    let of_parent = walker.schema.possible_types(parent.name);
    walker.budget.spend(fragments.len().saturating_mul(of_parent.len()))?;
    if parent.kind == TypeKind::Object {
        return Ok(fragments.contains(&parent.name));
    }
    Ok(fragments.iter().any(|found| of_parent.contains(found)))
}
