//! Which node undoes which: pairs of a node and one that stands outside the ordinary flow.
//!
//! An undo node runs after its node had completed and the run comes to a bad end. So nothing leads to it and it leads to nothing, one node
//! alone names it, and it is not undone itself; what can't be made good has no undo.

use std::collections::BTreeMap;

use super::{DraftGraph, Graph, Place, ProblemCode, Reader};
use crate::{
    limits::{MAX_NODE_ID_CHARS, MAX_UNDOES},
    node::{NodeClass, NodeKind, OnError},
};

impl Graph {
    /// Which node undoes which, by id and those of loop bodies included: the undo nodes by what they undo.
    #[must_use]
    pub fn undoes(&self) -> BTreeMap<String, String> {
        let nodes = self.all_nodes().into_iter();
        let pair = |node: &crate::node::Node| Some((node.id().to_owned(), node.undo()?.to_owned()));
        nodes.filter_map(pair).collect()
    }
}

/// What has an effect in the world, or in that of another run, or may have one in its body.
fn can_be_undone(kind: NodeKind) -> bool {
    matches!(kind.class(), NodeClass::Effect | NodeClass::Loop)
        || matches!(kind, NodeKind::Worker | NodeKind::Workflow)
}

/// What does something by itself: nobody is asked, and nothing is chosen, while a run comes to its end.
fn can_undo(kind: NodeKind) -> bool {
    kind.class() == NodeClass::Effect || matches!(kind, NodeKind::Worker | NodeKind::Workflow)
}

impl DraftGraph {
    /// Reports what is wrong with undo nodes. Answers for each node whether another names it as its undo.
    pub(super) fn read_undoes(&self, reader: &mut Reader) -> Vec<bool> {
        let mut undone_by: Vec<Option<usize>> = vec![None; self.declared.len()];
        let mut connected = vec![false; self.declared.len()];
        for (from, to, _) in &self.connections {
            connected[*from] = true;
            connected[*to] = true;
        }
        for (index, node) in self.declared.iter().enumerate() {
            let Some(undo) = &node.undo else { continue };
            let place = node.place.field("undo");
            reader.undoes += 1;
            if reader.undoes == MAX_UNDOES + 1 {
                let reason = format!("at most {MAX_UNDOES} nodes of a definition name their undo");
                reader.report(&place, ProblemCode::OutOfRange, reason);
            }
            let Some(target) = self.by_id.get(undo).copied() else {
                let shown: String = undo.chars().take(MAX_NODE_ID_CHARS).collect();
                let reason = format!("there is no node `{shown}` here");
                reader.report(&place, ProblemCode::NodeUnknown, reason);
                continue;
            };
            let first = *undone_by[target].get_or_insert(index);
            self.report_undo(index, target, first, &connected, &place, reader);
        }
        undone_by.iter().map(Option::is_some).collect()
    }

    /// Everything that is wrong with one pair. `first` is the node that named the undo node first.
    fn report_undo(
        &self,
        index: usize,
        target: usize,
        first: usize,
        connected: &[bool],
        place: &Place,
        reader: &mut Reader,
    ) {
        let (node, undo) = (&self.declared[index], &self.declared[target]);
        let mut wrong = |reason: String| reader.report(place, ProblemCode::UndoInvalid, reason);
        if index == target {
            wrong("a node can't undo itself".to_owned());
            return;
        }
        if let Some(kind) = node.kind.filter(|kind| !can_be_undone(*kind)) {
            wrong(format!("a {kind} does nothing that can be undone"));
        }
        if let Some(kind) = undo.kind.filter(|kind| !can_undo(*kind)) {
            wrong(format!(
                "`{}` is a {kind}; only an action, a script, a worker's step or a workflow undoes",
                undo.id
            ));
        }
        if connected[target] {
            wrong(format!(
                "`{}` has connections; what undoes stands outside the ordinary flow",
                undo.id
            ));
        }
        if undo.undo.is_some() {
            wrong(format!("`{}` names an undo; what undoes is not undone itself", undo.id));
        }
        if first != index {
            wrong(format!("`{}` undoes `{}` already", undo.id, self.declared[first].id));
        }
        let on_error = undo.node.as_ref().map(crate::node::Node::on_error);
        if matches!(on_error, Some(OnError::Continue(_) | OnError::Branch)) {
            wrong(format!(
                "`{}` has an `on_error` of `continue` or `branch`; what undoes fails or pauses",
                undo.id
            ));
        }
    }
}
