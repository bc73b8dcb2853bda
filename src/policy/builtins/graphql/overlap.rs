//! Whether fields of one name in an answer can be merged (October 2021, section 5.3.2).
//!
//! The rule compares pairs of selections and what is under them, which hostile queries make many of: steps and depth
//! are bounded.

use std::collections::{HashMap, HashSet};
use std::ptr;

use super::ast::{
    Argument, Field, FieldDefinition, FragmentDefinition, FragmentSpread, Selection, TypeKind, TypeRef,
};
use super::lexer::Position;
use super::parser::{Budget, Parsed, Problem};
use super::schema::{Schema, TypeDef, type_name_field};

/// Calls into each other, through fields and fragments.
const MAX_DEPTH: usize = 512;

/// A field with the type it is selected on.
#[derive(Clone, Copy)]
struct Slot<'a> {
    field: &'a Field,
    parent: Option<&'a TypeDef<'a>>,
    definition: Option<&'a FieldDefinition>,
}

impl<'a> Slot<'a> {
    fn under(&self, schema: &'a Schema<'a>) -> Option<&'a TypeDef<'a>> {
        self.definition.and_then(|definition| schema.types.get(definition.kind.base()))
    }
}

/// Fields by their name in the answer, in the order of the query.
#[derive(Default)]
struct Fields<'a> {
    groups: Vec<(&'a str, Vec<Slot<'a>>)>,
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Fields<'a> {
    fn push(&mut self, slot: Slot<'a>) {
        let alias = slot.field.alias.as_str();
        let name = if alias.is_empty() { slot.field.name.as_str() } else { alias };
        let index = *self.by_name.entry(name).or_insert(self.groups.len());
        match self.groups.get_mut(index) {
            Some((_, slots)) => slots.push(slot),
            None => self.groups.push((name, vec![slot])),
        }
    }

    fn get(&self, name: &str) -> &[Slot<'a>] {
        let group = self.by_name.get(name).and_then(|index| self.groups.get(*index));
        group.map(|(_, slots)| slots.as_slice()).unwrap_or_default()
    }

    fn slots(&self) -> impl Iterator<Item = &Slot<'a>> {
        self.groups.iter().flat_map(|(_, slots)| slots)
    }

    /// The same places of the query, not just equal fields.
    fn is(&self, other: &Self) -> bool {
        self.slots()
            .map(|slot| ptr::from_ref(slot.field))
            .eq(other.slots().map(|slot| ptr::from_ref(slot.field)))
    }
}

type Collected<'a> = (Fields<'a>, Vec<&'a FragmentSpread>);

struct Conflict {
    name: String,
    why: String,
    under: Vec<Self>,
    at: Option<Position>,
}

impl Conflict {
    fn reason(&self) -> String {
        if self.under.is_empty() {
            return self.why.clone();
        }
        let under = |conflict: &Self| {
            format!("subfields \"{}\" conflict because {}", conflict.name, conflict.reason())
        };
        self.under.iter().map(under).collect::<Vec<_>>().join(" and ")
    }
}

/// Lives as long as the validation of one document.
pub struct Overlap<'a> {
    schema: &'a Schema<'a>,
    fragments: HashMap<&'a str, &'a FragmentDefinition>,
    /// Pairs compared, and whether as mutually exclusive.
    pairs: HashMap<(&'a str, &'a str), bool>,
    compared: HashSet<&'a str>,
    budget: Budget,
    depth: usize,
}

impl<'a> Overlap<'a> {
    pub fn new(schema: &'a Schema<'a>, fragments: HashMap<&'a str, &'a FragmentDefinition>) -> Self {
        Self {
            schema,
            fragments,
            pairs: HashMap::new(),
            compared: HashSet::new(),
            budget: Budget::default(),
            depth: 0,
        }
    }

    /// # Errors
    /// The first conflict among these selections.
    pub fn check(&mut self, selections: &'a [Selection], parent: Option<&'a TypeDef<'a>>) -> Parsed<()> {
        if selections.is_empty() {
            return Ok(());
        }
        let (fields, spreads) = self.collect(selections, parent)?;
        let mut conflicts = Vec::new();
        for (_, slots) in &fields.groups {
            for (index, a) in slots.iter().enumerate() {
                for b in slots.iter().skip(index + 1) {
                    conflicts.extend(self.pair(false, a, b)?);
                }
            }
        }
        self.compared.clear();
        for (index, spread) in spreads.iter().enumerate() {
            self.with_fragment(&mut conflicts, false, &fields, &spread.name)?;
            for other in spreads.iter().skip(index + 1) {
                self.fragments(&mut conflicts, false, &spread.name, &other.name)?;
            }
        }
        match conflicts.first() {
            None => Ok(()),
            Some(conflict) => {
                let message = format!(
                    "Fields \"{}\" conflict because {}. Use different aliases on the fields to fetch both if this was \
                     intentional.",
                    conflict.name,
                    conflict.reason()
                );
                Err(Problem::new(conflict.at, message))
            }
        }
    }

    fn collect(&self, selections: &'a [Selection], parent: Option<&'a TypeDef<'a>>) -> Parsed<Collected<'a>> {
        let mut found = Collected::default();
        self.collect_into(&mut found, selections, parent)?;
        Ok(found)
    }

    fn collect_into(
        &self,
        found: &mut Collected<'a>,
        selections: &'a [Selection],
        parent: Option<&'a TypeDef<'a>>,
    ) -> Parsed<()> {
        self.budget.spend(selections.len())?;
        for selection in selections {
            match selection {
                Selection::Field(field) => {
                    let definition = definition_of(parent, field);
                    found.0.push(Slot { field, parent, definition });
                }
                Selection::Spread(spread) => found.1.push(spread),
                Selection::Inline(inline) => {
                    let parent = if inline.condition.is_empty() {
                        parent
                    } else {
                        self.schema.types.get(inline.condition.as_str())
                    };
                    self.collect_into(found, &inline.selections, parent)?;
                }
            }
        }
        Ok(())
    }

    fn collect_fragment(&self, name: &str) -> Parsed<Option<Collected<'a>>> {
        let Some(fragment) = self.fragments.get(name) else { return Ok(None) };
        self.collect(&fragment.selections, self.schema.types.get(fragment.condition.as_str())).map(Some)
    }

    fn enter(&mut self) -> Parsed<()> {
        self.budget.spend(1)?;
        self.depth += 1;
        if self.depth < MAX_DEPTH {
            return Ok(());
        }
        Err(Problem::new(None, format!("selections are nested deeper than {MAX_DEPTH} levels")))
    }

    fn with_fragment(
        &mut self,
        conflicts: &mut Vec<Conflict>,
        is_exclusive: bool,
        fields: &Fields<'a>,
        name: &'a str,
    ) -> Parsed<()> {
        if !self.compared.insert(name) {
            return Ok(());
        }
        let Some((others, spreads)) = self.collect_fragment(name)? else { return Ok(()) };
        if fields.is(&others) {
            return Ok(());
        }
        self.enter()?;
        self.between(conflicts, is_exclusive, fields, &others)?;
        for spread in spreads.iter().filter(|spread| spread.name != name) {
            self.with_fragment(conflicts, is_exclusive, fields, &spread.name)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn fragments(
        &mut self,
        conflicts: &mut Vec<Conflict>,
        is_exclusive: bool,
        a: &'a str,
        b: &'a str,
    ) -> Parsed<()> {
        // What was compared as not exclusive covers both.
        let done = self.pairs.get(&(a, b)).is_some_and(|was_exclusive| is_exclusive || !was_exclusive);
        if a == b || done {
            return Ok(());
        }
        self.pairs.insert((a, b), is_exclusive);
        self.pairs.insert((b, a), is_exclusive);
        let (Some((fields_a, spreads_a)), Some((fields_b, spreads_b))) =
            (self.collect_fragment(a)?, self.collect_fragment(b)?)
        else {
            return Ok(());
        };
        self.enter()?;
        self.between(conflicts, is_exclusive, &fields_a, &fields_b)?;
        for spread in spreads_b {
            self.fragments(conflicts, is_exclusive, a, &spread.name)?;
        }
        for spread in spreads_a {
            self.fragments(conflicts, is_exclusive, &spread.name, b)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn between(
        &mut self,
        conflicts: &mut Vec<Conflict>,
        is_exclusive: bool,
        a: &Fields<'a>,
        b: &Fields<'a>,
    ) -> Parsed<()> {
        for (name, slots) in &a.groups {
            for slot in slots {
                for other in b.get(name) {
                    conflicts.extend(self.pair(is_exclusive, slot, other)?);
                }
            }
        }
        Ok(())
    }

    fn pair(&mut self, is_exclusive: bool, a: &Slot<'a>, b: &Slot<'a>) -> Parsed<Option<Conflict>> {
        self.budget.spend(1 + a.field.arguments.len().saturating_mul(b.field.arguments.len()))?;
        let (Some(parent_a), Some(parent_b)) = (a.parent, b.parent) else { return Ok(None) };
        let is_exclusive = is_exclusive
            || (parent_a.name != parent_b.name
                && parent_a.kind == TypeKind::Object
                && parent_b.kind == TypeKind::Object
                && a.definition.is_some()
                && b.definition.is_some());
        let name = if a.field.alias.is_empty() { &a.field.name } else { &a.field.alias };
        let conflict =
            |why: String| Ok(Some(Conflict { name: name.clone(), why, under: Vec::new(), at: b.field.at }));
        if !is_exclusive {
            if a.field.name != b.field.name {
                let (a, b) = (&a.field.name, &b.field.name);
                return conflict(format!("\"{a}\" and \"{b}\" are different fields"));
            }
            if !same_arguments(&a.field.arguments, &b.field.arguments) {
                return conflict("they have differing arguments".to_owned());
            }
        }
        if let (Some(a), Some(b)) = (a.definition, b.definition)
            && self.types_conflict(&a.kind, &b.kind)
        {
            return conflict(format!("they return conflicting types \"{}\" and \"{}\"", a.kind, b.kind));
        }
        self.enter()?;
        let under = self.under(is_exclusive, a, b)?;
        self.depth -= 1;
        if under.is_empty() {
            return Ok(None);
        }
        Ok(Some(Conflict { name: name.clone(), why: String::new(), under, at: b.field.at }))
    }

    fn under(&mut self, is_exclusive: bool, a: &Slot<'a>, b: &Slot<'a>) -> Parsed<Vec<Conflict>> {
        let mut conflicts = Vec::new();
        let (fields_a, spreads_a) = self.collect(&a.field.selections, a.under(self.schema))?;
        let (fields_b, spreads_b) = self.collect(&b.field.selections, b.under(self.schema))?;
        self.between(&mut conflicts, is_exclusive, &fields_a, &fields_b)?;
        for (fields, spreads) in [(&fields_a, &spreads_b), (&fields_b, &spreads_a)] {
            for spread in spreads {
                self.compared.clear();
                self.with_fragment(&mut conflicts, is_exclusive, fields, &spread.name)?;
            }
        }
        for a in &spreads_a {
            for b in &spreads_b {
                self.fragments(&mut conflicts, is_exclusive, &a.name, &b.name)?;
            }
        }
        Ok(conflicts)
    }

    fn types_conflict(&self, a: &TypeRef, b: &TypeRef) -> bool {
        match (&a.item, &b.item) {
            (Some(a), Some(b)) => self.types_conflict(a, b),
            (None, None) if a.non_null == b.non_null => {
                let of = |name: &str| self.schema.types.get(name);
                let (Some(a), Some(b)) = (of(&a.name), of(&b.name)) else { return false };
                a.is_leaf() && b.is_leaf() && a.name != b.name
            }
            _ => true,
        }
    }
}

pub fn definition_of<'a>(parent: Option<&'a TypeDef<'a>>, field: &Field) -> Option<&'a FieldDefinition> {
    if field.name == "__typename" {
        type_name_field()
    } else {
        parent.and_then(|parent| parent.field(&field.name))
    }
}

fn same_arguments(a: &[Argument], b: &[Argument]) -> bool {
    let same = |a: &Argument, b: &Argument| {
        a.name == b.name && a.value.kind == b.value.kind && a.value.raw == b.value.raw
    };
    a.len() == b.len() && a.iter().all(|a| b.iter().any(|b| same(a, b)))
}
