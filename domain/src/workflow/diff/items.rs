//! Two lists of nodes or connections: which is which, what is new, gone, changed, or somewhere else.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value};

use super::{BodyDiff, ChangedItem, GRAPH, ItemsDiff, PlacedItem, apply_changes, body, changes};

/// By what an item of one list is found in the other; the first that finds one decides.
type Keys = &'static [fn(&Value) -> Option<String>];

/// A node is found by its id.
pub(super) const NODE_KEYS: Keys = &[id_of];

/// A connection is found as it is, else by its two ends.
pub(super) const CONNECTION_KEYS: Keys = &[whole_connection, ends_of];

fn id_of(node: &Value) -> Option<String> {
    node.get("id").and_then(Value::as_str).map(str::to_owned)
}

fn ends_of(connection: &Value) -> Option<String> {
    let end = |name: &str| connection.get(name).and_then(Value::as_str);
    Some(format!("{}\u{1f}{}", end("from")?, end("to")?))
}

fn whole_connection(connection: &Value) -> Option<String> {
    let port = connection.get("port").and_then(Value::as_str).unwrap_or_default();
    Some(format!("{}\u{1f}{port}", ends_of(connection)?))
}

impl ItemsDiff {
    /// What leads from one list to another.
    pub(super) fn between(from: &[Value], to: &[Value], keys: Keys) -> Self {
        let pairs = pair(from, to, keys);
        let matched: HashSet<usize> = pairs.iter().map(|(_, to)| *to).collect();
        let kept: HashSet<usize> = pairs.iter().map(|(from, _)| *from).collect();
        let placed = |list: &[Value], known: &HashSet<usize>| {
            list.iter()
                .enumerate()
                .filter(|(index, _)| !known.contains(index))
                .map(|(index, value)| PlacedItem { index, value: value.clone() })
                .collect()
        };
        let stay = longest_rising(&pairs);
        let changed = pairs.iter().filter_map(|(from_index, to_index)| {
            let moved = !stay.contains(to_index);
            let (fields, body) = compared(&from[*from_index], &to[*to_index]);
            (moved || !fields.is_empty() || body.is_some()).then(|| ChangedItem {
                id: id_of(&to[*to_index]),
                from_index: *from_index,
                to_index: *to_index,
                moved,
                fields,
                body,
            })
        });
        Self {
            changed: changed.collect(),
            added: placed(to, &matched),
            removed: placed(from, &kept),
        }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    pub(super) fn apply(&self, from: &[Value]) -> Option<Vec<Value>> {
        let length = (from.len() + self.added.len()).checked_sub(self.removed.len())?;
        let mut places: Vec<Option<Value>> = vec![None; length];
        let gone: HashSet<usize> = self.removed.iter().map(|item| item.index).collect();
        let changed: HashMap<usize, &ChangedItem> =
            self.changed.iter().map(|item| (item.from_index, item)).collect();
        let mut stay = VecDeque::new();
        for (index, item) in from.iter().enumerate().filter(|(index, _)| !gone.contains(index)) {
            match changed.get(&index) {
                Some(change) if change.moved => {
                    *places.get_mut(change.to_index)? = Some(change.apply(item)?);
                }
                Some(change) => stay.push_back(change.apply(item)?),
                None => stay.push_back(item.clone()),
            }
        }
        for item in &self.added {
            *places.get_mut(item.index)? = Some(item.value.clone());
        }
        // Whatever stays keeps its order, so it fills the places that are left.
        places.into_iter().map(|place| place.or_else(|| stay.pop_front())).collect()
    }
}

impl ChangedItem {
    fn apply(&self, item: &Value) -> Option<Value> {
        let mut item = item.clone();
        apply_changes(&self.fields, &mut item)?;
        if let Some(diff) = &self.body {
            let config = item.get_mut("config")?.as_object_mut()?;
            for (name, items) in [("nodes", &diff.nodes), ("connections", &diff.connections)] {
                let list = items.apply(config.get(name)?.as_array()?)?;
                config.insert(name.to_owned(), Value::Array(list));
            }
        }
        Some(item)
    }
}

/// The fields of an item that differ, and its body apart from them.
fn compared(from: &Value, to: &Value) -> (Vec<super::Change>, Option<Box<BodyDiff>>) {
    let mut found = Vec::new();
    let (Some(old), Some(new)) = (body(from), body(to)) else {
        changes(from, to, String::new(), &mut found);
        return (found, None);
    };
    let between =
        |name: &str, keys| ItemsDiff::between(super::list(old, name), super::list(new, name), keys);
    let diff = BodyDiff {
        nodes: between("nodes", NODE_KEYS),
        connections: between("connections", CONNECTION_KEYS),
    };
    changes(&without_body(from), &without_body(to), String::new(), &mut found);
    let differs = !diff.nodes.is_empty() || !diff.connections.is_empty();
    (found, differs.then(|| Box::new(diff)))
}

fn without_body(item: &Value) -> Value {
    let Some(object) = item.as_object() else { return item.clone() };
    let rest = object.iter().map(|(name, value)| match (name.as_str(), value) {
        ("config", Value::Object(config)) => {
            let rest: Map<String, Value> = config
                .iter()
                .filter(|(name, _)| !GRAPH.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            (name.clone(), Value::Object(rest))
        }
        _ => (name.clone(), value.clone()),
    });
    Value::Object(rest.collect())
}

/// Which item of one list is which of the other, in the order of the older list. What has no key is only the same while it is equal.
fn pair(from: &[Value], to: &[Value], keys: Keys) -> Vec<(usize, usize)> {
    let mut open_from: Vec<usize> = (0..from.len()).collect();
    let mut open_to: Vec<usize> = (0..to.len()).collect();
    let mut pairs = Vec::with_capacity(from.len().min(to.len()));
    for key in keys {
        let mut known: HashMap<String, VecDeque<usize>> = HashMap::new();
        for index in &open_to {
            let key = key(&to[*index]).unwrap_or_else(|| to[*index].to_string());
            known.entry(key).or_default().push_back(*index);
        }
        open_from.retain(|index| {
            let key = key(&from[*index]).unwrap_or_else(|| from[*index].to_string());
            let found = known.get_mut(&key).and_then(VecDeque::pop_front);
            pairs.extend(found.map(|found| (*index, found)));
            found.is_none()
        });
        let taken: HashSet<usize> = pairs.iter().map(|(_, to)| *to).collect();
        open_to.retain(|index| !taken.contains(index));
    }
    pairs.sort_unstable();
    pairs
}

/// The places in the newer list of the most pairs that stand in the same order in both: the fewest others have moved.
fn longest_rising(pairs: &[(usize, usize)]) -> HashSet<usize> {
    // Of each length, the pair whose row of that length ends lowest; and for each pair, the one before it in its row.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (index, (_, to)) in pairs.iter().enumerate() {
        let length = ends.partition_point(|end| pairs[*end].1 < *to);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        match ends.get_mut(length) {
            Some(end) => *end = index,
            None => ends.push(index),
        }
    }
    let mut row = HashSet::new();
    let mut at = ends.last().copied();
    while let Some(index) = at {
        row.insert(pairs[index].1);
        at = before[index];
    }
    row
}
