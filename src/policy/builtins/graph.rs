//! Walks over a graph that an object of neighbours describes. The paths of a small graph can be beyond all bounds, so
//! what is collected has one.

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

/// A path, from its last node back to its first. `counts` is whether a return to its node is a cycle.
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

    fn has(&mut self, path: &Rc<Step<'a>>, node: &Value) -> Result<bool, Fault> {
        self.spend(path.length)?;
        let mut step = Some(path);
        while let Some(current) = step {
            if current.node == node {
                return Ok(true);
            }
            step = current.before.as_ref();
        }
        Ok(false)
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
        let mut open: Vec<(Rc<Step<'a>>, &'a Value)> =
            neighbours.into_iter().map(|next| (Rc::clone(&first), next)).collect();
        while let Some((path, node)) = open.pop() {
            let Some(neighbours) = self.graph.get(node) else {
                self.add(&path)?;
                continue;
            };
            let path = Step::after(Some(&path), node);
            let neighbours = edges(neighbours);
            self.spend(neighbours.len())?;
            if neighbours.is_empty() {
                self.add(&path)?;
            }
            for next in neighbours {
                if self.has(&path, next)? {
                    self.add(&path)?;
                } else {
                    open.push((Rc::clone(&path), next));
                }
            }
        }
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
    fn a_graph_of_too_many_paths_is_refused() {
        let names: Vec<String> = (0..20).map(|n| format!("\"{n}\"")).collect();
        let all = names.join(",");
        let graph =
            v(&format!("{{{}}}", names.iter().map(|n| format!("{n}:[{all}]")).collect::<Vec<_>>().join(",")));
        assert!(paths(&graph, &v("[\"0\"]")).is_err());
        let chain: Vec<String> = (0..100_000).map(|n| format!("\"{n}\":[\"{}\"]", n + 1)).collect();
        let chain = v(&format!("{{{}}}", chain.join(",")));
        assert!(paths(&chain, &v("[\"0\"]")).is_err());
        assert!(reachable(&chain, &v("[\"0\"]")).is_ok());
    }
}
