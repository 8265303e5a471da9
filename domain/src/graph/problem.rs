//! What is wrong with a definition, so that an editor can point at it.

use serde::{Deserialize, Serialize};

/// One thing that is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The node it belongs to; none for connections between unknown nodes, settings and the definition itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// JSON Pointer into the definition.
    pub field: String,
    /// Which rule it breaks, for programs.
    pub code: ProblemCode,
    /// Why, for a person.
    pub reason: String,
}

/// The rules of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// A field that must be there is not.
    Required,
    /// A value has another type than its field.
    WrongType,
    /// A field that nobody knows.
    UnknownField,
    /// A word that is not one of the known ones.
    UnknownValue,
    /// A number, text or list beyond its bounds.
    OutOfRange,
    /// A value that has the right type and can't be right.
    InvalidValue,
    /// Known, and not available.
    Unsupported,
    /// An id that isn't 1 to 64 letters, digits, `_` or `-`.
    IdInvalid,
    /// Two nodes have the same id.
    IdDuplicate,
    /// A kind of node that nobody knows.
    KindUnknown,
    /// A connection names a node that isn't there.
    NodeUnknown,
    /// A connection names a port that its node doesn't have.
    PortUnknown,
    /// The same connection twice.
    ConnectionDuplicate,
    /// A connection leads into a trigger, or a trigger stands inside a loop.
    TriggerMisplaced,
    /// Nodes that wait for each other.
    Cycle,
    /// A node that nothing leads to.
    Unreachable,
    /// More nodes than a definition may have.
    TooManyNodes,
    /// More connections than a definition may have.
    TooManyConnections,
    /// More loops inside loops than a definition may have.
    LoopTooDeep,
    /// JSON that is nested too deep.
    NestedTooDeep,
    /// An expression or template that doesn't parse.
    ExpressionInvalid,
    /// An expression or template that is too long.
    ExpressionTooLong,
    /// An expression that nests too deep.
    ExpressionTooDeep,
    /// An expression or template that names a variable nobody sets.
    UnknownVariable,
    /// A secret where none may be used, or not alone in its braces.
    SecretMisplaced,
    /// A secret that the workspace doesn't have.
    SecretUnknown,
    /// A connection that the workspace doesn't have, or one of another kind.
    ConnectionUnknown,
    /// A workflow that isn't there, or that belongs to another workspace.
    WorkflowUnknown,
    /// A node that can't be undone, or not by the node that it names.
    UndoInvalid,
}

impl ProblemCode {
    /// The served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::WrongType => "wrong_type",
            Self::UnknownField => "unknown_field",
            Self::UnknownValue => "unknown_value",
            Self::OutOfRange => "out_of_range",
            Self::InvalidValue => "invalid_value",
            Self::Unsupported => "unsupported",
            Self::IdInvalid => "id_invalid",
            Self::IdDuplicate => "id_duplicate",
            Self::KindUnknown => "kind_unknown",
            Self::NodeUnknown => "node_unknown",
            Self::PortUnknown => "port_unknown",
            Self::ConnectionDuplicate => "connection_duplicate",
            Self::TriggerMisplaced => "trigger_misplaced",
            Self::Cycle => "cycle",
            Self::Unreachable => "unreachable",
            Self::TooManyNodes => "too_many_nodes",
            Self::TooManyConnections => "too_many_connections",
            Self::LoopTooDeep => "loop_too_deep",
            Self::NestedTooDeep => "nested_too_deep",
            Self::ExpressionInvalid => "expression_invalid",
            Self::ExpressionTooLong => "expression_too_long",
            Self::ExpressionTooDeep => "expression_too_deep",
            Self::UnknownVariable => "unknown_variable",
            Self::SecretMisplaced => "secret_misplaced",
            Self::SecretUnknown => "secret_unknown",
            Self::ConnectionUnknown => "connection_unknown",
            Self::WorkflowUnknown => "workflow_unknown",
            Self::UndoInvalid => "undo_invalid",
        }
    }
}
