//! `json.filter`, `json.remove` and `json.patch`: what lies at paths. A patch can copy what it has just copied, so
//! what it makes has a bound in size and in depth.

use std::collections::BTreeMap;

use regorus::Value;
use regorus::value::{Array, Object, Set};

use super::values::{array, items, none_of, object};
use super::{Builtin, Fault, Outcome, binary, kind_of};

pub const BUILTINS: [Builtin; 3] =
    [binary("json.filter", filter), binary("json.remove", remove), binary("json.patch", patch)];

/// Segments of a path, and levels of a value that a patch makes: as deep as a request body may be.
const MAX_DEPTH: usize = 512;
/// Values that the operations of one patch add or copy.
const MAX_PATCHED_VALUES: usize = 1 << 18;

/// Items that one patch moves within arrays, to make room and to close gaps.
const MAX_MOVED_ITEMS: usize = 1 << 26;

/// A path that ends is a leaf.
enum Tree {
    Leaf,
    Inner(BTreeMap<Value, Tree>),
}

fn tree(operand: &Value) -> Result<Tree, Fault> {
    let mut root = BTreeMap::new();
    for path in items(operand).ok_or_else(|| none_of(2, &["set", "array"], operand))? {
        let mut path = segments(path)?;
        let Some(last) = path.pop() else { continue };
        let mut node = Some(&mut root);
        for segment in path {
            let child = node.and_then(|node: &mut BTreeMap<Value, Tree>| {
                match node.entry(segment).or_insert_with(|| Tree::Inner(BTreeMap::new())) {
                    Tree::Leaf => None,
                    Tree::Inner(inner) => Some(inner),
                }
            });
            node = child;
        }
        if let Some(node) = node {
            node.insert(last, Tree::Leaf);
        }
    }
    Ok(Tree::Inner(root))
}

fn segments(path: &Value) -> Result<Vec<Value>, Fault> {
    let segments: Vec<Value> = match path {
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(text) => {
            let parts = text.trim_start_matches('/').split('/');
            parts.map(|part| Value::from(part.replace("~1", "/").replace("~0", "~"))).collect()
        }
        Value::Array(items) => items.to_vec(),
        other => {
            return Err(Fault::Type(format!(
                "operand 2 must be one of {{set, array}} containing string paths or array of path segments but got {}",
                kind_of(other)
            )));
        }
    };
    if segments.len() > MAX_DEPTH {
        return Err(Fault::failed("a path is too long"));
    }
    Ok(segments)
}

fn filter(value: &Value, paths: &Value) -> Outcome {
    object(1, value)?;
    Ok(kept(value, &tree(paths)?))
}

fn kept(value: &Value, tree: &Tree) -> Value {
    let Tree::Inner(tree) = tree else { return value.clone() };
    match value {
        Value::Array(items) => {
            let kept = items.iter().enumerate().filter_map(|(index, item)| {
                tree.get(&Value::from(index.to_string())).map(|tree| kept(item, tree))
            });
            kept.collect::<Array>().into_value()
        }
        Value::Set(items) => {
            let kept = items.iter().filter_map(|item| tree.get(item).map(|tree| kept(item, tree)));
            kept.collect::<Set>().into_value()
        }
        Value::Object(members) => {
            let kept = tree
                .iter()
                .filter_map(|(key, tree)| members.get(key).map(|value| (key.clone(), kept(value, tree))));
            kept.collect::<Object>().into_value()
        }
        other => other.clone(),
    }
}

fn remove(value: &Value, paths: &Value) -> Outcome {
    object(1, value)?;
    Ok(left(value, Some(&tree(paths)?)).unwrap_or(Value::Undefined))
}

/// Nothing for what is removed itself.
fn left(value: &Value, tree: Option<&Tree>) -> Option<Value> {
    let tree = match tree {
        None => return Some(value.clone()),
        Some(Tree::Leaf) => return None,
        Some(Tree::Inner(tree)) => tree,
    };
    Some(match value {
        Value::Array(items) => {
            let left = items.iter().enumerate();
            left.filter_map(|(index, item)| left_at(item, tree, &Value::from(index.to_string())))
                .collect::<Array>()
                .into_value()
        }
        Value::Set(items) => {
            items.iter().filter_map(|item| left_at(item, tree, item)).collect::<Set>().into_value()
        }
        Value::Object(members) => {
            let left =
                members.iter().filter_map(|(key, value)| Some((key.clone(), left_at(value, tree, key)?)));
            left.collect::<Object>().into_value()
        }
        other => other.clone(),
    })
}

fn left_at(value: &Value, tree: &BTreeMap<Value, Tree>, key: &Value) -> Option<Value> {
    left(value, tree.get(key))
}

/// A patch that cannot be applied has no result, and is no error: so it is in OPA.
fn patch(value: &Value, operations: &Value) -> Outcome {
    let mut patched =
        Patched { root: Some(value.clone()), budget: MAX_PATCHED_VALUES, moves: MAX_MOVED_ITEMS };
    for operation in array(2, operations)? {
        if patched.apply(operation).is_none() {
            return Ok(Value::Undefined);
        }
    }
    Ok(patched.root.unwrap_or(Value::Undefined))
}

struct Patched {
    root: Option<Value>,
    budget: usize,
    moves: usize,
}

impl Patched {
    fn apply(&mut self, operation: &Value) -> Option<()> {
        let Value::Object(operation) = operation else { return None };
        let attribute = |name: &str| operation.get(&Value::from(name));
        let path_of = |name: &str| segments(attribute(name)?).ok();
        let path = path_of("path")?;
        match attribute("op")?.as_string().ok()?.as_ref() {
            "add" => self.insert(&path, attribute("value")?.clone()),
            "remove" => self.take(&path).map(|_| ()),
            "replace" => {
                self.take(&path)?;
                self.insert(&path, attribute("value")?.clone())
            }
            "move" => {
                let moved = self.take(&path_of("from")?)?;
                self.insert(&path, moved)
            }
            "copy" => {
                let copied = self.at(&path_of("from")?)?.clone();
                self.insert(&path, copied)
            }
            "test" => (self.at(&path)? == attribute("value")?).then_some(()),
            _ => None,
        }
    }

    fn at(&self, path: &[Value]) -> Option<&Value> {
        path.iter().try_fold(self.root.as_ref()?, |value, key| match value {
            Value::Object(members) => members.get(key),
            Value::Array(items) => items.get(index(key, items.len(), false)?),
            Value::Set(items) => items.get(key),
            _ => None,
        })
    }

    fn insert(&mut self, path: &[Value], value: Value) -> Option<()> {
        measure(&value, MAX_DEPTH.checked_sub(path.len())?, &mut self.budget)?;
        let Some((last, path)) = path.split_last() else {
            self.root = Some(value);
            return Some(());
        };
        let moves = &mut self.moves;
        edit(self.root.as_mut()?, path, &mut |parent| match parent {
            Value::Object(_) => {
                parent.as_object_mut().ok()?.insert(last.clone(), value.clone());
                Some(())
            }
            Value::Array(items) => {
                let at = index(last, items.len(), true)?;
                edit_items(parent, moves, |items| items.insert(at, value.clone()))
            }
            Value::Set(_) if *last == value => {
                parent.as_set_mut().ok()?.insert(value.clone());
                Some(())
            }
            _ => None,
        })
    }

    fn take(&mut self, path: &[Value]) -> Option<Value> {
        let Some((last, path)) = path.split_last() else { return self.root.take() };
        let mut taken = None;
        let moves = &mut self.moves;
        edit(self.root.as_mut()?, path, &mut |parent| {
            taken = match parent {
                Value::Object(_) => parent.as_object_mut().ok()?.remove(last),
                Value::Array(items) => {
                    let at = index(last, items.len(), false)?;
                    edit_items(parent, moves, |items| items.remove(at))
                }
                Value::Set(_) => parent.as_set_mut().ok()?.remove(last).then(|| last.clone()),
                _ => None,
            };
            taken.is_some().then_some(())
        })?;
        taken
    }
}

fn edit_items<T>(array: &mut Value, moves: &mut usize, edit: impl FnOnce(&mut Vec<Value>) -> T) -> Option<T> {
    let array = array.as_array_mut().ok()?;
    *moves = moves.checked_sub(array.len())?;
    let mut items = std::mem::take(array).into_vec();
    let result = edit(&mut items);
    *array = Array::from(items);
    Some(result)
}

/// Changes what lies at a path. A member of a set that changes is another member.
fn edit(value: &mut Value, path: &[Value], change: &mut dyn FnMut(&mut Value) -> Option<()>) -> Option<()> {
    let Some((first, rest)) = path.split_first() else { return change(value) };
    match value {
        Value::Object(_) => edit(value.as_object_mut().ok()?.get_mut(first)?, rest, change),
        Value::Array(items) => {
            let at = index(first, items.len(), false)?;
            edit(value.as_array_mut().ok()?.get_mut(at)?, rest, change)
        }
        Value::Set(items) => {
            let mut member = items.get(first)?.clone();
            edit(&mut member, rest, change)?;
            let items = value.as_set_mut().ok()?;
            items.remove(first);
            items.insert(member);
            Some(())
        }
        _ => None,
    }
}

/// `-` is behind the last item.
fn index(key: &Value, length: usize, may_append: bool) -> Option<usize> {
    let index = match key {
        Value::String(text) if text.as_ref() == "-" => length,
        Value::String(text) if text.len() > 1 && text.starts_with('0') => return None,
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok()?,
        Value::Number(number) => usize::try_from(number.as_i64()?).ok()?,
        _ => return None,
    };
    (index < length || (may_append && index == length)).then_some(index)
}

fn measure(value: &Value, depth: usize, budget: &mut usize) -> Option<()> {
    *budget = budget.checked_sub(1)?;
    let below = |depth: usize| depth.checked_sub(1);
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| measure(item, below(depth)?, budget)),
        Value::Set(items) => items.iter().try_for_each(|item| measure(item, below(depth)?, budget)),
        Value::Object(members) => {
            members.values().try_for_each(|value| measure(value, below(depth)?, budget))
        }
        _ => Some(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(json: &str) -> Value {
        Value::from_json_str(json).unwrap()
    }

    #[test]
    fn copies_of_copies_have_a_bound() {
        let copy = r#"{"op":"copy","from":"/a","path":"/a/-"}"#;
        let operations = v(&format!("[{}]", [copy; 200].join(",")));
        assert_eq!(patch(&v(r#"{"a":[1]}"#), &operations), Ok(Value::Undefined));
        let deeper = r#"{"op":"add","path":"/a","value":{}},{"op":"copy","from":"","path":"/a/b"}"#;
        let operations = v(&format!("[{}]", [deeper; 600].join(",")));
        assert!(patch(&v(r#"{"a":[1]}"#), &operations).unwrap().to_string().len() < 1 << 20);
    }

    #[test]
    fn patches() {
        let patched = |value: &str, operations: &str| patch(&v(value), &v(operations)).unwrap().to_string();
        assert_eq!(patched("[1,2]", r#"[{"op":"add","path":"/1","value":9}]"#), "[1,9,2]");
        assert_eq!(patched("[1,2]", r#"[{"op":"add","path":"/-","value":9}]"#), "[1,2,9]");
        assert_eq!(
            patched(r#"{"a":{"b":1}}"#, r#"[{"op":"move","from":"/a/b","path":"/c"}]"#),
            r#"{"a":{},"c":1}"#
        );
        assert_eq!(patched("[1]", r#"[{"op":"remove","path":"/01"}]"#), Value::Undefined.to_string());
        assert_eq!(
            patched(
                "1",
                r#"[{"op":"replace","path":"","value":{"a~b/c":1}},{"op":"test","path":"/a~0b~1c","value":1}]"#
            ),
            r#"{"a~b/c":1}"#
        );
    }

    #[test]
    fn longer_paths_under_a_leaf_count_for_nothing() {
        let value = v(r#"{"a":{"b":1,"c":2}}"#);
        assert_eq!(filter(&value, &v(r#"["a","a/b"]"#)), Ok(value.clone()));
        assert_eq!(filter(&value, &v(r#"["a/b"]"#)), Ok(v(r#"{"a":{"b":1}}"#)));
        assert_eq!(remove(&value, &v(r#"["a/b"]"#)), Ok(v(r#"{"a":{"c":2}}"#)));
        assert_eq!(remove(&value, &v(r#"[""]"#)), Ok(value));
    }
}
