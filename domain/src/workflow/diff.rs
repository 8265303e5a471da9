//! What differs between two versions of a workflow: nodes and connections added, removed and changed, and every other field.
//!
//! A node is the same one while it keeps its id, wherever it stands; a connection while it keeps its ends. Inside both, fields are
//! compared one by one, and the graph in a loop's body is compared as the outer one is. Applying a diff to what it was made from gives
//! exactly what it was made to: nothing that differs can be left out unseen.

mod items;

use serde::Serialize;
use serde_json::Value;

use self::items::{CONNECTION_KEYS, NODE_KEYS};
use super::SavedVersion;

/// The fields of a graph, which are compared item by item.
const GRAPH: [&str; 2] = ["nodes", "connections"];

/// What leads from one version to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Diff {
    /// Fields outside the graph: name, description, tags, is_public and settings.
    pub fields: Vec<Change>,
    /// Its nodes.
    pub nodes: ItemsDiff,
    /// Its connections.
    pub connections: ItemsDiff,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// JSON Pointer, from the item or document that holds the field.
    pub pointer: String,
    /// What it was; left out where it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// What it is; left out where it is not there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// What differs in a list of nodes or connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ItemsDiff {
    /// Those that are new, with their places in the newer list.
    pub added: Vec<PlacedItem>,
    /// Those that are gone, with their places in the older list.
    pub removed: Vec<PlacedItem>,
    /// Those that are in both and differ, or stand in another order.
    pub changed: Vec<ChangedItem>,
}

/// A node or connection in its list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlacedItem {
    /// Its place in its list.
    pub index: usize,
    /// The whole of it.
    pub value: Value,
}

/// A node or connection that is in both lists.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangedItem {
    /// The id of a node; none for a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its place in the older list.
    pub from_index: usize,
    /// Its place in the newer list.
    pub to_index: usize,
    /// Whether it stands in another order among those that are in both.
    pub moved: bool,
    /// Its fields that differ.
    pub fields: Vec<Change>,
    /// What differs in the graph of its body, where it has one in both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Box<BodyDiff>>,
}

/// What differs in the body of a loop.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BodyDiff {
    /// Its nodes.
    pub nodes: ItemsDiff,
    /// Its connections.
    pub connections: ItemsDiff,
}

impl Diff {
    /// What leads from one version to another; none while the definition of one is not at hand.
    #[must_use]
    pub fn between(from: &SavedVersion, to: &SavedVersion) -> Option<Self> {
        Some(Self::of_documents(&from.document()?, &to.document()?))
    }

    /// What leads from one document (`{name, …, nodes, connections, settings}`) to another.
    #[must_use]
    pub fn of_documents(from: &Value, to: &Value) -> Self {
        let mut fields = Vec::new();
        changes(&without_graph(from), &without_graph(to), String::new(), &mut fields);
        Self {
            fields,
            nodes: ItemsDiff::between(list(from, "nodes"), list(to, "nodes"), NODE_KEYS),
            connections: ItemsDiff::between(
                list(from, "connections"),
                list(to, "connections"),
                CONNECTION_KEYS,
            ),
        }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.nodes.is_empty() && self.connections.is_empty()
    }

    /// What the document that it was made from becomes by it; none for a document that it does not fit.
    #[must_use]
    pub fn apply(&self, from: &Value) -> Option<Value> {
        let mut document = from.clone();
        apply_changes(&self.fields, &mut document)?;
        for (name, items) in [("nodes", &self.nodes), ("connections", &self.connections)] {
            let list = items.apply(list(from, name))?;
            document.as_object_mut()?.insert(name.to_owned(), Value::Array(list));
        }
        Some(document)
    }
}

impl SavedVersion {
    /// The version as one JSON object: what a person sends to save it, and what an export holds. None while its definition is not
    /// at hand.
    #[must_use]
    pub fn document(&self) -> Option<Value> {
        let Value::Object(mut document) = self.definition()?.to_value() else { return None };
        document.insert("name".to_owned(), Value::from(self.name.as_str()));
        document.insert("description".to_owned(), Value::from(self.description.as_str()));
        document.insert("tags".to_owned(), Value::from(self.tags.as_slice()));
        document.insert("is_public".to_owned(), Value::from(self.is_public));
        Some(Value::Object(document))
    }
}

fn list<'a>(document: &'a Value, name: &str) -> &'a [Value] {
    document.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The document without the lists that are compared item by item. One that is no list, or not there, stays as it is.
fn without_graph(document: &Value) -> Value {
    let mut rest = document.clone();
    if let Some(object) = rest.as_object_mut() {
        object.retain(|name, _| !GRAPH.contains(&name.as_str()));
    }
    rest
}

/// The graph in the configuration of a loop, where it has one.
fn body(item: &Value) -> Option<&Value> {
    let config = item.get("config")?;
    GRAPH.iter().all(|name| config.get(name).is_some_and(Value::is_array)).then_some(config)
}

/// Every place at which two values differ, from the outside inwards. Lists of the same length are compared item by item; others are
/// one change, because which of their items is which is not known.
fn changes(from: &Value, to: &Value, pointer: String, found: &mut Vec<Change>) {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            for (name, from) in from {
                let pointer = format!("{pointer}/{}", escape(name));
                match to.get(name) {
                    Some(to) => changes(from, to, pointer, found),
                    None => found.push(Change { pointer, from: Some(from.clone()), to: None }),
                }
            }
            for (name, to) in to.iter().filter(|(name, _)| !from.contains_key(*name)) {
                let pointer = format!("{pointer}/{}", escape(name));
                found.push(Change { pointer, from: None, to: Some(to.clone()) });
            }
        }
        (Value::Array(from), Value::Array(to)) if from.len() == to.len() => {
            for (index, (from, to)) in from.iter().zip(to).enumerate() {
                changes(from, to, format!("{pointer}/{index}"), found);
            }
        }
        (from, to) if from == to => {}
        (from, to) => {
            found.push(Change { pointer, from: Some(from.clone()), to: Some(to.clone()) });
        }
    }
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn apply_changes(changes: &[Change], target: &mut Value) -> Option<()> {
    for change in changes {
        if change.pointer.is_empty() {
            *target = change.to.clone()?;
            continue;
        }
        let (parent, name) = change.pointer.rsplit_once('/')?;
        let name = name.replace("~1", "/").replace("~0", "~");
        match (target.pointer_mut(parent)?, &change.to) {
            (Value::Object(object), Some(to)) => {
                object.insert(name, to.clone());
            }
            (Value::Object(object), None) => {
                object.remove(&name)?;
            }
            (Value::Array(items), Some(to)) => {
                *items.get_mut(name.parse::<usize>().ok()?)? = to.clone();
            }
            (
                Value::Array(_)
                | Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_),
                _,
            ) => return None,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests;
