//! One node run by itself: everything around it is settled before it begins, so that the run is this node and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    CarriedNode, CarriedVariable, ExecutionRejection, NodeOutput, NodeState, Origin, OriginKind,
    Run,
};
use crate::{
    graph::{Graph, NodeIndex},
    id::ExecutionId,
    json::Json,
};

/// Where a run of one node is made from: every other node is carried over, with an output where one is known and as skipped where none
/// is.
///
/// What follows on the node is skipped, whatever is known of it: an old output there would pass for one of this run. Of the others,
/// what is known is what the caller gives, else what its definition pins, else what the `source` run had. What leads to the
/// node counts as taken. Without a source the origin names the new execution itself, `own`.
///
/// # Errors
/// [`ExecutionRejection::NodeUnknown`] for an id that is not at the top level; [`ExecutionRejection::NotInFlow`]; [`ExecutionRejection::OutputUnknown`] when the node reads
/// an output that nobody knows.
pub fn single_node(
    graph: &Graph,
    node: &str,
    own: ExecutionId,
    source: Option<(ExecutionId, &Run)>,
    given: &BTreeMap<String, Json>,
) -> Result<Origin, ExecutionRejection> {
    let unknown = || ExecutionRejection::NodeUnknown { node: node.to_owned() };
    let target = graph.index_of(node).ok_or_else(unknown)?;
    if graph.is_undo(target) {
        return Err(ExecutionRejection::NotInFlow(node.to_owned()));
    }
    if let Some(other) = given.keys().find(|id| graph.index_of(id).is_none()) {
        return Err(ExecutionRejection::NodeUnknown { node: other.clone() });
    }
    let taken: BTreeMap<_, _> =
        graph.incoming(target).iter().rev().map(|edge| (edge.node, &edge.port)).collect();
    let reads = graph.node(target).references();
    let after = after(graph, target);
    let mut carried = Vec::with_capacity(graph.len());
    let others = graph.nodes().filter(|(index, _)| *index != target && !graph.is_undo(*index));
    for (index, other) in others {
        let id = other.id();
        if after.contains(&index) {
            carried.push(CarriedNode { path: id.into(), output: None, port: None, looping: None });
            continue;
        }
        let known = given.get(id).or_else(|| other.pinned_output()).cloned();
        let (output, port) = match (known, source.and_then(|(_, run)| run.completed(id))) {
            (Some(value), _) => (Some(NodeOutput::Inline(value)), None),
            (None, Some((output, port))) => (Some(output.clone()), port.map(str::to_owned)),
            (None, None) => (None, None),
        };
        if output.is_none() && reads.iter().any(|read| read == id) {
            return Err(ExecutionRejection::OutputUnknown { node: id.to_owned() });
        }
        let (output, port) = match taken.get(&index) {
            Some(port) => {
                (Some(output.unwrap_or_else(|| NodeOutput::Inline(Json::null()))), (*port).clone())
            }
            None => (output, port),
        };
        carried.push(CarriedNode { path: id.into(), output, port, looping: None });
    }
    let variables = source.into_iter().flat_map(|(_, run)| &run.variables);
    let variables = variables.map(|(name, variable)| CarriedVariable {
        path: variable.set_by.clone(),
        name: name.clone(),
        value: variable.value.clone(),
    });
    Ok(Origin {
        execution_id: source.map_or(own, |(id, _)| id),
        kind: OriginKind::Node,
        from_node: None,
        at_version: None,
        edits: Vec::new(),
        carried,
        variables: variables.collect(),
        signals: Vec::new(),
    })
}

/// Every node that a node leads to, over any number of others.
fn after(graph: &Graph, node: NodeIndex) -> BTreeSet<NodeIndex> {
    let (mut found, mut open) = (BTreeSet::new(), vec![node]);
    while let Some(from) = open.pop() {
        let next = graph.outgoing(from).iter().map(|edge| edge.node);
        open.extend(next.filter(|next| found.insert(*next)));
    }
    found
}

impl Run {
    /// The output of a node of the top level that completed, and the port it left by.
    fn completed(&self, id: &str) -> Option<(&NodeOutput, Option<&str>)> {
        let NodeState::Completed(completed) = &self.nodes.get(&super::NodePath::from(id))?.state
        else {
            return None;
        };
        Some((&completed.output, completed.port.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph() -> Graph {
        Graph::parse(&json!({
            "nodes": [
                { "id": "start", "type": "trigger.manual" },
                { "id": "fetch", "type": "logic.transform", "config": { "expression": "1" }, "pinned_output": { "a": 1 } },
                { "id": "check", "type": "logic.if", "config": { "condition": "true" } },
                { "id": "sum", "type": "logic.transform", "config": { "expression": "nodes.fetch.output.a + 1" } },
                { "id": "after", "type": "logic.transform", "config": { "expression": "nodes.sum.output" } },
            ],
            "connections": [
                { "from": "start", "to": "fetch" }, { "from": "fetch", "to": "check" },
                { "from": "check", "to": "sum", "port": "false" }, { "from": "sum", "to": "after" },
            ],
        }))
        .expect("sound")
    }

    fn own() -> ExecutionId {
        ExecutionId(uuid::Uuid::from_u128(5))
    }

    fn carried(origin: &Origin) -> Vec<(&str, Option<&str>, Option<&str>)> {
        origin
            .carried
            .iter()
            .map(|node| {
                let Some(NodeOutput::Inline(value)) = &node.output else {
                    return (node.path.as_str(), None, node.port.as_deref());
                };
                let output = Some(value.as_str());
                (node.path.as_str(), output, node.port.as_deref())
            })
            .collect()
    }

    #[test]
    fn everything_around_the_node_is_settled_and_what_leads_to_it_is_taken() {
        let origin = single_node(&graph(), "sum", own(), None, &BTreeMap::new()).expect("pinned");
        assert_eq!(
            carried(&origin),
            [
                ("start", None, None),
                ("fetch", Some("{\"a\":1}"), None),
                ("check", Some("null"), Some("false")),
                ("after", None, None),
            ]
        );
        assert_eq!((origin.execution_id, origin.kind), (own(), OriginKind::Node));
        let given = BTreeMap::from([
            ("fetch".to_owned(), Json::from(json!({ "a": 9 }))),
            ("after".to_owned(), Json::from(json!("old"))),
        ]);
        let origin = single_node(&graph(), "sum", own(), None, &given).expect("given");
        assert_eq!(
            carried(&origin)[1].1,
            Some("{\"a\":9}"),
            "what is given is before what is pinned"
        );
        assert_eq!(carried(&origin)[3].1, None, "what follows is skipped, whatever is known");
    }

    #[test]
    fn what_nobody_knows_is_named() {
        let of = |node: &str, given: &[&str]| {
            let given = given.iter().map(|id| ((*id).to_owned(), Json::null())).collect();
            single_node(&graph(), node, own(), None, &given).map(|_| ())
        };
        let unknown = |node: &str| Err(ExecutionRejection::NodeUnknown { node: node.to_owned() });
        assert_eq!(of("gone", &[]), unknown("gone"));
        assert_eq!(of("sum", &["gone"]), unknown("gone"));
        assert_eq!(
            of("after", &[]),
            Err(ExecutionRejection::OutputUnknown { node: "sum".to_owned() })
        );
        assert_eq!(of("after", &["sum"]), Ok(()));
    }
}
