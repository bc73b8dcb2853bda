//! Walks over a graph that an object of neighbours describes. What is collected has a bound: a chain of
//! nodes has as many paths to a cycle as it has nodes.

use std::collections::VecDeque;
use std::rc::Rc;

use regorus::Value;
use regorus::value::{Object, Set};

use super::values::{items, object};
use super::{Builtin, Fault, Outcome, binary};

pub const BUILTINS: [Builtin; 2] =
    [binary("graph.reachable", reachable), binary("graph.reachable_paths", paths)];

/// Nodes on all paths together.
const MAX_PATH_NODES: usize = 1 << 20;

fn start(value: &Value) -> Result<Vec<&Value>, Fault> {
    items(value).ok_or_else(|| Fault::operand(2, "{array, set}", value))
}

/// What is neither an array nor a set has no edges.
fn edges(value: &Value) -> Vec<&Value> {
    items(value).unwrap_or_default()
}

fn reachable(graph: &Value, initial: &Value) -> Outcome {
    let graph = object(1, graph)?;
    let mut queue: VecDeque<&Value> = start(initial)?.into();
    let mut reached = Set::new();
    while let Some(node) = queue.pop_front() {
        if let Some(neighbours) = graph.get(node)
            && reached.insert(node.clone())
        {
            queue.extend(edges(neighbours).into_iter().filter(|neighbour| !reached.contains(neighbour)));
        }
    }
    Ok(reached.into_value())
}

/// A path, from its last node back to its first.
struct Step<'a> {
    node: &'a Value,
    before: Option<Rc<Step<'a>>>,
    length: usize,
}

impl<'a> Step<'a> {
    fn after(before: Option<&Rc<Self>>, node: &'a Value) -> Rc<Self> {
        Rc::new(Self { node, before: before.cloned(), length: before.map_or(0, |before| before.length) + 1 })
    }
}

/// A long chain is taken apart link by link; on its own it would recurse.
impl Drop for Step<'_> {
    fn drop(&mut self) {
        let mut next = self.before.take();
        while let Some(mut step) = next.and_then(|step| Rc::try_unwrap(step).ok()) {
            next = step.before.take();
        }
    }
}

/// A path, and what is left of the neighbours of its last node.
type Open<'a> = (Rc<Step<'a>>, std::vec::IntoIter<&'a Value>);

struct Walk<'a> {
    graph: &'a Object,
    found: Set,
    budget: usize,
}

impl<'a> Walk<'a> {
    fn spend(&mut self, nodes: usize) -> Result<(), Fault> {
        self.budget = self
            .budget
            .checked_sub(nodes)
            .ok_or_else(|| Fault::failed(format!("paths have at most {MAX_PATH_NODES} nodes in all")))?;
        Ok(())
    }

    fn add(&mut self, path: &Rc<Step<'a>>) -> Result<(), Fault> {
        self.spend(path.length)?;
        let mut nodes = Vec::with_capacity(path.length);
        let mut step = Some(path);
        while let Some(current) = step {
            nodes.push(current.node.clone());
            step = current.before.as_ref();
        }
        nodes.reverse();
        self.found.insert(Value::from(nodes));
        Ok(())
    }

    fn from(&mut self, root: &'a Value) -> Result<(), Fault> {
        let Some(neighbours) = self.graph.get(root) else { return Ok(()) };
        let first = Step::after(None, root);
        let neighbours = edges(neighbours);
        if neighbours.is_empty() {
            return self.add(&first);
        }
        neighbours.into_iter().try_for_each(|next| self.below(&first, root, next))
    }

    /// From one neighbour of the root on. A node that has been gone through is not gone through again: the path to it
    /// ends before it.
    fn below(&mut self, first: &Rc<Step<'a>>, root: &'a Value, next: &'a Value) -> Result<(), Fault> {
        let mut gone_through = Set::new();
        gone_through.insert(root.clone());
        let mut open = Vec::new();
        self.enter(&mut open, first, next)?;
        while let Some((path, neighbours)) = open.last_mut() {
            let Some(next) = neighbours.next() else {
                open.pop();
                continue;
            };
            let path = Rc::clone(path);
            if gone_through.contains(next) {
                self.add(&path)?;
            } else {
                gone_through.insert(path.node.clone());
                self.enter(&mut open, &path, next)?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, open: &mut Vec<Open<'a>>, path: &Rc<Step<'a>>, node: &'a Value) -> Result<(), Fault> {
        let Some(neighbours) = self.graph.get(node) else { return self.add(path) };
        let path = Step::after(Some(path), node);
        let neighbours = edges(neighbours);
        if neighbours.is_empty() {
            return self.add(&path);
        }
        self.spend(neighbours.len())?;
        open.push((path, neighbours.into_iter()));
        Ok(())
    }
}

fn paths(graph: &Value, initial: &Value) -> Outcome {
    let mut walk = Walk { graph: object(1, graph)?, found: Set::new(), budget: MAX_PATH_NODES };
    for root in start(initial)? {
        walk.from(root)?;
    }
    Ok(walk.found.into_value())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(json: &str) -> Value {
        Value::from_json_str(json).unwrap()
    }

    #[test]
    fn cycles_end() {
        let graph = v(r#"{"a":["b"],"b":["c","a"],"c":["x"],"s":["s"],"n":null}"#);
        assert_eq!(reachable(&graph, &v(r#"["a"]"#)).unwrap().as_set().unwrap().len(), 3);
        let found = paths(&graph, &v(r#"["a"]"#)).unwrap().to_string();
        assert_eq!(found, r#"[["a","b"],["a","b","c"]]"#);
        assert_eq!(paths(&graph, &v(r#"["s","n"]"#)).unwrap().to_string(), r#"[["n"],["s","s"]]"#);
    }

    #[test]
    fn many_paths_and_long_ones() {
        let all: Vec<String> = (0..20).map(|n| format!("\"{n}\"")).collect();
        let members: Vec<String> = all.iter().map(|name| format!("{name}:[{}]", all.join(","))).collect();
        let complete = v(&format!("{{{}}}", members.join(",")));
        assert!(paths(&complete, &v("[\"0\"]")).unwrap().as_set().unwrap().len() < 1 << 10);
        let chain = |back: &str| {
            let members: Vec<String> =
                (0..100_000).map(|n| format!("\"{n}\":[\"{}\"{back}]", n + 1)).collect();
            v(&format!("{{{}}}", members.join(",")))
        };
        assert_eq!(paths(&chain(""), &v("[\"0\"]")).unwrap().as_set().unwrap().len(), 1);
        assert!(paths(&chain(",\"0\""), &v("[\"0\"]")).is_err());
        assert!(reachable(&chain(",\"0\""), &v("[\"0\"]")).is_ok());
    }
}
