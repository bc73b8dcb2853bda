//! Which rules reach which: recursion, which the engine would follow until the stack is gone, and chains so long that it
//! is gone without.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::Span;

use super::names::Name;

/// A name with `None` for each part that is only known when it is evaluated.
pub type Pattern = Vec<Option<String>>;

/// What the definitions of one rule use, and how deep their expressions nest.
pub struct Uses<'a> {
    pub at: &'a Span,
    pub names: BTreeSet<Pattern>,
    pub depth: usize,
}

/// Of all rules on a chain together, by the measure of [`super::syntax::depth`]: 12 MiB of a stack of 16 MiB in a debug
/// build, and a third of that in a release build.
pub const MAX_CHAIN_DEPTH: usize = 6000;

pub enum Trouble {
    /// Rules that can reach themselves.
    Recursive(Vec<Name>),
    /// A rule that reaches further than the stack may.
    TooDeep(Name, usize),
}

/// The first trouble there is.
pub fn trouble(uses: &BTreeMap<Name, Uses<'_>>) -> Option<Trouble> {
    let names: Vec<&Name> = uses.keys().collect();
    let edges: Vec<Vec<usize>> = uses.values().map(|found| reached(&names, found)).collect();
    let order = match order(&edges) {
        Ok(order) => order,
        Err(cycles) => {
            let names = cycles.into_iter().filter_map(|index| names.get(index).map(|name| (*name).clone()));
            return Some(Trouble::Recursive(names.collect()));
        }
    };
    let own: Vec<usize> = uses.values().map(|found| found.depth).collect();
    let mut depths = vec![0usize; names.len()];
    // Whoever is used comes before whoever uses.
    for index in order {
        let below = edges[index].iter().map(|used| depths[*used]).max().unwrap_or(0);
        depths[index] = below + own[index];
        if depths[index] > MAX_CHAIN_DEPTH {
            return Some(Trouble::TooDeep(names[index].clone(), depths[index]));
        }
    }
    None
}

/// A reference reaches the rules above and below it, as in OPA.
fn reached(names: &[&Name], uses: &Uses<'_>) -> Vec<usize> {
    let mut reached = BTreeSet::new();
    for pattern in &uses.names {
        let fixed: Name = pattern.iter().map_while(Clone::clone).collect();
        // Rules at and below what is known of the reference stand together in the order of names.
        let from = names.partition_point(|name| **name < fixed);
        let below = names.iter().enumerate().skip(from).take_while(|(_, name)| name.starts_with(&fixed));
        reached.extend(below.filter(|(_, name)| overlap(pattern, name)).map(|(index, _)| index));
        for length in 1..fixed.len() {
            if let Some(above) = fixed.get(..length).map(<[String]>::to_vec) {
                reached.extend(names.binary_search(&&above));
            }
        }
    }
    reached.into_iter().collect()
}

fn overlap(used: &Pattern, rule: &Name) -> bool {
    used.iter().zip(rule).all(|(used, part)| used.as_ref().is_none_or(|used| used == part))
}

/// An order in which every rule comes after those it uses, or the rules on cycles and between them.
fn order(edges: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
    for (user, used) in edges.iter().enumerate() {
        used.iter().for_each(|used| users[*used].push(user));
    }
    let order = peel(edges, &users);
    if order.len() == edges.len() {
        return Ok(order);
    }
    let from_below: BTreeSet<usize> = order.into_iter().collect();
    let from_above: BTreeSet<usize> = peel(&users, edges).into_iter().collect();
    Err((0..edges.len()).filter(|node| !from_below.contains(node) && !from_above.contains(node)).collect())
}

/// Nodes without edges first, then those whose edges all lead to nodes before them.
fn peel(edges: &[Vec<usize>], back: &[Vec<usize>]) -> Vec<usize> {
    let mut open: Vec<usize> = edges.iter().map(Vec::len).collect();
    let mut order: Vec<usize> = (0..edges.len()).filter(|node| open[*node] == 0).collect();
    let mut next = 0;
    while let Some(node) = order.get(next).copied() {
        next += 1;
        for user in &back[node] {
            open[*user] -= 1;
            if open[*user] == 0 {
                order.push(*user);
            }
        }
    }
    order
}
