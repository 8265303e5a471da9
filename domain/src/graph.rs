//! The graph of a workflow: acyclic and bounded by construction.
//!
//! Only [`Definition::parse`] makes one, so whoever holds a [`Graph`] knows that ids are unique, connections lead from ports that exist to
//! nodes that exist, nothing waits for itself, and every expression is compiled. Parsing reports every problem at once, each with its
//! node, its place and its reason, and takes time linear in the definition.

mod fields;
mod problem;
mod references;
mod settings;
mod undo;

use std::{collections::HashMap, sync::Arc};

use petgraph::{
    algo::{kosaraju_scc, toposort},
    graph::{DiGraph, NodeIndex as PetIndex},
};
use serde_json::{Map, Value};

pub(crate) use self::fields::{Fields, Place, Reader, read_integer};
pub use self::{
    problem::{Problem, ProblemCode},
    references::WorkflowReference,
    settings::{Concurrency, Settings},
};
use crate::{
    expression::nests_too_deep,
    json::Json,
    limits,
    node::{Node, NodeKind, is_id, read_node},
    vault::{SecretName, Vault},
    workflow::DefinitionBlob,
};

/// A sound definition: its text as it was written, and its graph.
#[derive(Clone, Debug)]
pub struct Definition {
    text: Json,
    graph: Arc<Graph>,
    blob: Option<DefinitionBlob>,
}

impl Definition {
    /// Reads `{nodes, connections, settings}`.
    ///
    /// # Errors
    /// Everything that is wrong with it, up to [`limits::MAX_PROBLEMS`].
    pub fn parse(text: Json) -> Result<Self, Vec<Problem>> {
        let graph = Graph::parse(&text.to_value())?;
        Ok(Self { text, graph: Arc::new(graph), blob: None })
    }

    /// The text as it was written.
    #[must_use]
    pub fn text(&self) -> &Json {
        &self.text
    }

    /// The same, with its text kept in a blob: what no event can hold must be.
    #[must_use]
    pub fn kept_in(self, blob: DefinitionBlob) -> Self {
        Self { blob: Some(blob), ..self }
    }

    /// The blob that its text is kept in.
    #[must_use]
    pub fn blob(&self) -> Option<&DefinitionBlob> {
        self.blob.as_ref()
    }

    /// The graph.
    #[must_use]
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }
}

impl PartialEq for Definition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// A node's place in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(usize);

/// One end of a connection, seen from the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The node at the far end.
    pub node: NodeIndex,
    /// The port it leaves its source by; none for the unnamed one.
    pub port: Option<String>,
}

/// A workflow's nodes and what leads to what.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    by_id: HashMap<String, NodeIndex>,
    incoming: Vec<Vec<Edge>>,
    outgoing: Vec<Vec<Edge>>,
    order: Vec<NodeIndex>,
    /// Per node, whether it undoes another one.
    undoes: Vec<bool>,
    settings: Arc<Settings>,
}

impl Graph {
    /// Reads the JSON of a definition.
    ///
    /// # Errors
    /// Everything that is wrong with it, up to [`limits::MAX_PROBLEMS`].
    pub fn parse(definition: &Value) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new();
        let graph = Self::read(definition, &mut reader);
        match graph {
            Some(graph) if reader.problems.is_empty() => Ok(graph),
            _ => Err(reader.problems),
        }
    }

    /// Reads the JSON of a definition in which some nodes of the top level have other values in fields of their configuration: each
    /// edit is a node's id and an object of the fields that are replaced.
    ///
    /// # Errors
    /// Everything that is wrong with the result, in pointers into the definition as it is with the edits.
    pub fn parse_edited<'a>(
        definition: &Value,
        edits: impl IntoIterator<Item = (&'a str, &'a Json)>,
    ) -> Result<Self, Vec<Problem>> {
        let mut definition = definition.clone();
        let nodes = definition.get_mut("nodes").and_then(Value::as_array_mut);
        let mut nodes: Vec<&mut Value> = nodes.into_iter().flatten().collect();
        for (id, fields) in edits {
            let node = nodes.iter_mut().find(|node| node.get("id").is_some_and(|is| is == id));
            let (Some(node), Value::Object(fields)) = (node, fields.to_value()) else { continue };
            let Some(node) = node.as_object_mut() else { continue };
            let config = node.entry("config").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(config) = config {
                config.extend(fields);
            }
        }
        Self::parse(&definition)
    }

    fn read(definition: &Value, reader: &mut Reader) -> Option<Self> {
        let top = Place::default();
        if nests_too_deep(definition) {
            let reason = format!("nests deeper than {} levels", limits::MAX_JSON_DEPTH);
            reader.report(&top, ProblemCode::NestedTooDeep, reason);
            return None;
        }
        let mut fields = Fields::open(definition, top, reader)?;
        let settings = fields.get("settings");
        let settings = settings.map_or_else(Settings::default, |settings| {
            Settings::read(settings, fields.place_of("settings"), reader)
        });
        let graph = Self::read_nodes(&mut fields, &Arc::new(settings), reader);
        fields.finish(reader);
        graph
    }

    /// Reads the body of a loop, which has no settings of its own.
    pub(crate) fn read_body(
        fields: &mut Fields<'_>,
        settings: &Settings,
        reader: &mut Reader,
    ) -> Option<Self> {
        Self::read_nodes(fields, &Arc::new(settings.clone()), reader)
    }

    fn read_nodes(
        fields: &mut Fields<'_>,
        settings: &Arc<Settings>,
        reader: &mut Reader,
    ) -> Option<Self> {
        let nodes = fields.array("nodes", usize::MAX, reader).unwrap_or_default();
        let connections = fields.array("connections", usize::MAX, reader).unwrap_or_default();
        reader.nodes = reader.nodes.saturating_add(nodes.len());
        if reader.nodes > limits::MAX_NODES {
            let reason = format!("a definition has at most {} nodes", limits::MAX_NODES);
            reader.report(&fields.place_of("nodes"), ProblemCode::TooManyNodes, reason);
            return None;
        }
        reader.connections = reader.connections.saturating_add(connections.len());
        if reader.connections > limits::MAX_CONNECTIONS {
            let reason =
                format!("a definition has at most {} connections", limits::MAX_CONNECTIONS);
            let place = fields.place_of("connections");
            reader.report(&place, ProblemCode::TooManyConnections, reason);
            return None;
        }
        let mut draft = DraftGraph::default();
        let place = fields.place_of("nodes");
        for (index, node) in nodes.iter().enumerate() {
            draft.add_node(node, place.item(index), settings, reader);
        }
        let place = fields.place_of("connections");
        for (index, connection) in connections.iter().enumerate() {
            draft.add_connection(connection, &place.item(index), reader);
        }
        draft.finish(settings, reader)
    }

    /// Whether it has no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many nodes it has, those of loop bodies not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The settings of its definition.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its nodes in an order in which each comes after all that lead to it.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeIndex, &Node)> {
        self.order.iter().map(|index| (*index, self.node(*index)))
    }

    /// A node by its place.
    #[must_use]
    pub fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[index.0]
    }

    /// The place of a node, by id.
    #[must_use]
    pub fn index_of(&self, id: &str) -> Option<NodeIndex> {
        self.by_id.get(id).copied()
    }

    /// A node, by id.
    #[must_use]
    pub fn node_by_id(&self, id: &str) -> Option<&Node> {
        self.index_of(id).map(|index| self.node(index))
    }

    /// What leads to a node: the sources with the ports they are left by, in the order of the definition.
    #[must_use]
    pub fn incoming(&self, index: NodeIndex) -> &[Edge] {
        &self.incoming[index.0]
    }

    /// What a node leads to, in the order of the definition.
    #[must_use]
    pub fn outgoing(&self, index: NodeIndex) -> &[Edge] {
        &self.outgoing[index.0]
    }

    /// What a node leads to when it is left by a port; none is the unnamed one.
    pub fn outgoing_by_port<'a>(
        &'a self,
        index: NodeIndex,
        port: Option<&'a str>,
    ) -> impl Iterator<Item = NodeIndex> + 'a {
        let edges = self.outgoing(index).iter();
        edges.filter(move |edge| edge.port.as_deref() == port).map(|edge| edge.node)
    }

    /// Whether a node undoes another one, and so stands outside the ordinary flow.
    #[must_use]
    pub fn is_undo(&self, index: NodeIndex) -> bool {
        self.undoes[index.0]
    }

    /// The nodes of the ordinary flow that nothing leads to, in order.
    pub fn roots(&self) -> impl Iterator<Item = NodeIndex> {
        self.flow().filter(|index| self.incoming(*index).is_empty())
    }

    /// The nodes of the ordinary flow that lead to nothing, in order.
    pub fn leaves(&self) -> impl Iterator<Item = NodeIndex> {
        self.flow().filter(|index| self.outgoing(*index).is_empty())
    }

    /// How many nodes of the ordinary flow it has, those of loop bodies not counted.
    #[must_use]
    pub fn flow_len(&self) -> usize {
        self.flow().count()
    }

    fn flow(&self) -> impl Iterator<Item = NodeIndex> {
        self.order.iter().copied().filter(|index| !self.is_undo(*index))
    }

    /// All nodes of the definition, those of loop bodies included.
    pub fn all_nodes(&self) -> Vec<&Node> {
        let mut all: Vec<&Node> = self.nodes.iter().collect();
        for body in self.nodes.iter().filter_map(|node| node.config().body()) {
            all.extend(body.all_nodes());
        }
        all
    }

    /// The secrets that any of its nodes names.
    #[must_use]
    pub fn secrets(&self) -> Vec<SecretName> {
        let nodes = self.all_nodes();
        let mut names: Vec<SecretName> =
            nodes.into_iter().flat_map(|node| node.secrets().iter().cloned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether it names anything that its workspace must have.
    #[must_use]
    pub fn names_anything(&self) -> bool {
        let names =
            |node: &Node| !node.secrets().is_empty() || node.config().connection().is_some();
        self.all_nodes().into_iter().any(names)
    }

    /// What it names and a workspace doesn't have.
    #[must_use]
    pub fn missing_from(&self, vault: &Vault) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.find_missing(vault, "", &mut problems);
        problems.truncate(limits::MAX_PROBLEMS);
        problems
    }

    fn find_missing(&self, vault: &Vault, place: &str, problems: &mut Vec<Problem>) {
        for (index, node) in self.nodes.iter().enumerate() {
            let field = format!("{place}/nodes/{index}/config");
            for name in node.secrets().iter().filter(|name| vault.secret(name).is_none()) {
                problems.push(Problem {
                    node_id: Some(node.id().to_owned()),
                    field: field.clone(),
                    code: ProblemCode::SecretUnknown,
                    reason: format!("the workspace has no secret `{name}`"),
                });
            }
            if let Some((name, kind)) = node.config().connection() {
                let reason = match vault.connection_named(name) {
                    None => Some(format!("the workspace has no connection `{name}`")),
                    Some((_, kept)) if kept.kind != kind => Some(format!(
                        "the connection `{name}` leads to {}, and this needs {}",
                        kept.kind.as_str(),
                        kind.as_str()
                    )),
                    Some(_) => None,
                };
                problems.extend(reason.map(|reason| Problem {
                    node_id: Some(node.id().to_owned()),
                    field: format!("{field}/connection"),
                    code: ProblemCode::ConnectionUnknown,
                    reason,
                }));
            }
            if let Some(body) = node.config().body() {
                body.find_missing(vault, &field, problems);
            }
        }
    }

    /// The graph that a node stands in and the node itself, for an id anywhere in the definition, loop bodies included.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<(&Self, NodeIndex)> {
        if let Some(index) = self.index_of(id) {
            return Some((self, index));
        }
        self.nodes.iter().filter_map(|node| node.config().body()).find_map(|body| body.find(id))
    }
}

/// A node that is declared, be it sound or not, so that one mistake is not reported as many.
struct Declared {
    id: String,
    place: Place,
    kind: Option<NodeKind>,
    /// The node that it names as its undo.
    undo: Option<String>,
    node: Option<Node>,
}

/// A graph that is being read.
#[derive(Default)]
struct DraftGraph {
    declared: Vec<Declared>,
    by_id: HashMap<String, usize>,
    connections: Vec<(usize, usize, Option<String>)>,
    seen: std::collections::HashSet<(usize, usize, Option<String>)>,
}

impl DraftGraph {
    fn add_node(
        &mut self,
        value: &Value,
        mut place: Place,
        settings: &Settings,
        reader: &mut Reader,
    ) {
        if !value.is_object() {
            reader.wrong_type(&place, "an object", value);
            return;
        }
        let id_place = place.field("id");
        let id = match value.get("id") {
            None | Some(Value::Null) => {
                reader.report(&id_place, ProblemCode::Required, "`id` is required");
                None
            }
            Some(Value::String(id)) if is_id(id) => Some(id.as_str()),
            Some(Value::String(_)) => {
                let reason = "an id has 1 to 64 letters, digits, `_` or `-`";
                reader.report(&id_place, ProblemCode::IdInvalid, reason);
                None
            }
            Some(other) => {
                reader.wrong_type(&id_place, "a string", other);
                None
            }
        };
        place.node_id = id.map(str::to_owned);
        // Taken before the node is read: the nodes of its body have ids of the same definition.
        let is_new = id.is_some_and(|id| reader.ids.insert(id.to_owned()));
        let kind = value.get("type").and_then(Value::as_str).and_then(NodeKind::from_name);
        let node = read_node(value, id.unwrap_or_default(), place.clone(), settings, reader);
        let Some(id) = id else { return };
        if kind.is_some_and(NodeKind::is_trigger) && reader.loop_depth > 0 {
            let reason = "a trigger can't stand inside a loop";
            reader.report(&place.field("type"), ProblemCode::TriggerMisplaced, reason);
        }
        if !is_new {
            let reason = format!("another node has the id `{id}`");
            reader.report(&place.field("id"), ProblemCode::IdDuplicate, reason);
            return;
        }
        let undo = value.get("undo").and_then(Value::as_str).map(str::to_owned);
        self.by_id.insert(id.to_owned(), self.declared.len());
        self.declared.push(Declared { id: id.to_owned(), place, kind, undo, node });
    }

    fn add_connection(&mut self, value: &Value, place: &Place, reader: &mut Reader) {
        let Some(mut fields) = Fields::open(value, place.clone(), reader) else { return };
        let from = self.end_of(&mut fields, "from", reader);
        let to = self.end_of(&mut fields, "to", reader);
        let port = fields.string("port", limits::MAX_NODE_ID_CHARS, reader).map(str::to_owned);
        let port_place = fields.place_of("port");
        let to_place = fields.place_of("to");
        fields.finish(reader);
        if let Some(from) = from {
            self.check_port(from, port.as_deref(), port_place, reader);
        }
        let (Some(from), Some(to)) = (from, to) else { return };
        if self.declared[to].kind.is_some_and(NodeKind::is_trigger) {
            let place = Place { node_id: Some(self.declared[to].id.clone()), ..to_place };
            let reason = "nothing can lead to a trigger";
            reader.report(&place, ProblemCode::TriggerMisplaced, reason);
        }
        let connection = (from, to, port);
        if !self.seen.insert(connection.clone()) {
            let place = Place { node_id: Some(self.declared[from].id.clone()), ..place.clone() };
            reader.report(
                &place,
                ProblemCode::ConnectionDuplicate,
                "this connection is there twice",
            );
            return;
        }
        self.connections.push(connection);
    }

    fn end_of(
        &self,
        fields: &mut Fields<'_>,
        name: &'static str,
        reader: &mut Reader,
    ) -> Option<usize> {
        let value = fields.required(name, reader)?;
        let Some(id) = value.as_str() else {
            reader.wrong_type(&fields.place_of(name), "the id of a node", value);
            return None;
        };
        let found = self.by_id.get(id).copied();
        if found.is_none() {
            let shown: String = id.chars().take(limits::MAX_NODE_ID_CHARS).collect();
            let reason = format!("there is no node `{shown}` here");
            reader.report(&fields.place_of(name), ProblemCode::NodeUnknown, reason);
        }
        found
    }

    fn check_port(&self, from: usize, port: Option<&str>, place: Place, reader: &mut Reader) {
        let declared = &self.declared[from];
        // Which ports an unsound node has isn't known.
        let Some(node) = &declared.node else { return };
        let ports = node.ports();
        let exists = match port {
            None => node.has_unnamed_port(),
            Some(port) => ports.iter().any(|known| known == port),
        };
        if exists {
            return;
        }
        let place = Place { node_id: Some(declared.id.clone()), ..place };
        let reason = match port {
            None => format!("`{}` is left by a port: {}", declared.id, ports.join(", ")),
            Some(port) if ports.is_empty() => {
                format!("`{}` has no port `{port}`: leave `port` out", declared.id)
            }
            Some(port) => {
                format!("`{}` has no port `{port}`; it has {}", declared.id, ports.join(", "))
            }
        };
        reader.report(&place, ProblemCode::PortUnknown, reason);
    }

    fn finish(self, settings: &Arc<Settings>, reader: &mut Reader) -> Option<Graph> {
        let mut shape: DiGraph<(), ()> =
            DiGraph::with_capacity(self.declared.len(), self.connections.len());
        for _ in &self.declared {
            shape.add_node(());
        }
        for (from, to, _) in &self.connections {
            shape.add_edge(PetIndex::new(*from), PetIndex::new(*to), ());
        }
        let order = toposort(&shape, None);
        if order.is_err() {
            self.report_cycles(&shape, reader);
        }
        let undoes = self.read_undoes(reader);
        self.report_unreachable(&undoes, reader);
        self.report_triggers(reader);
        let order = order.ok()?.into_iter().map(|index| NodeIndex(index.index())).collect();
        let (mut incoming, mut outgoing) =
            (vec![Vec::new(); self.declared.len()], vec![Vec::new(); self.declared.len()]);
        for (from, to, port) in self.connections {
            incoming[to].push(Edge { node: NodeIndex(from), port: port.clone() });
            outgoing[from].push(Edge { node: NodeIndex(to), port });
        }
        let by_id = self.by_id.into_iter().map(|(id, index)| (id, NodeIndex(index))).collect();
        let nodes: Option<Vec<Node>> = self.declared.into_iter().map(|node| node.node).collect();
        Some(Graph {
            nodes: nodes?,
            by_id,
            incoming,
            outgoing,
            order,
            undoes,
            settings: Arc::clone(settings),
        })
    }

    /// One problem a ring, at its first node, naming the others.
    fn report_cycles(&self, shape: &DiGraph<(), ()>, reader: &mut Reader) {
        const SHOWN: usize = 10;
        let mut rings: Vec<Vec<usize>> = kosaraju_scc(shape)
            .into_iter()
            .filter(|ring| {
                ring.len() > 1 || ring.iter().any(|index| shape.contains_edge(*index, *index))
            })
            .map(|ring| ring.into_iter().map(PetIndex::index).collect())
            .collect();
        rings.iter_mut().for_each(|ring| ring.sort_unstable());
        rings.sort_unstable();
        for ring in rings {
            let ids = ring.iter().take(SHOWN).map(|index| self.declared[*index].id.as_str());
            let mut ids = ids.collect::<Vec<_>>().join(", ");
            if ring.len() > SHOWN {
                ids.push_str(", …");
            }
            let reason = format!("these nodes wait for each other: {ids}");
            reader.report(&self.declared[ring[0]].place, ProblemCode::Cycle, reason);
        }
    }

    /// Each trigger is a stream of its own, which every publication brings in line.
    fn report_triggers(&self, reader: &mut Reader) {
        let mut triggers =
            self.declared.iter().filter(|node| node.kind.is_some_and(NodeKind::is_trigger));
        if let Some(over) = triggers.nth(limits::MAX_TRIGGERS) {
            let reason = format!("a workflow has at most {} triggers", limits::MAX_TRIGGERS);
            reader.report(&over.place.field("type"), ProblemCode::OutOfRange, reason);
        }
    }

    /// Once there is a trigger, runs begin there and nowhere else.
    fn report_unreachable(&self, undoes: &[bool], reader: &mut Reader) {
        let is_trigger = |node: &Declared| node.kind.is_some_and(NodeKind::is_trigger);
        let mut reached: Vec<bool> = self.declared.iter().map(is_trigger).collect();
        let mut open: Vec<usize> = (0..reached.len()).filter(|index| reached[*index]).collect();
        if open.is_empty() || reader.loop_depth > 0 {
            return;
        }
        let mut next: Vec<Vec<usize>> = vec![Vec::new(); self.declared.len()];
        for (from, to, _) in &self.connections {
            next[*from].push(*to);
        }
        while let Some(from) = open.pop() {
            for to in &next[from] {
                if !reached[*to] {
                    reached[*to] = true;
                    open.push(*to);
                }
            }
        }
        for (index, node) in self.declared.iter().enumerate() {
            if !reached[index] && !undoes[index] {
                let reason = "no trigger leads to this node, so it would never run";
                reader.report(&node.place, ProblemCode::Unreachable, reason);
            }
        }
    }
}

#[cfg(test)]
mod tests;
