//! Where a node stands: `fetch`, or `each[3]/fetch` inside a loop.

use std::{borrow::Borrow, fmt};

use super::NodePath;

impl NodePath {
    /// A node in a scope: the scope is empty at the top, and `each[3]/` in the fourth run of the body of `each`.
    #[must_use]
    pub fn within(scope: &str, node: &str) -> Self {
        Self([scope, node].concat())
    }

    /// The path of the whole run.
    #[must_use]
    pub fn run() -> Self {
        Self(String::new())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The scope with its closing slash, empty at the top.
    #[must_use]
    pub fn scope(&self) -> &str {
        self.split().0
    }

    /// The id of the node in the definition.
    #[must_use]
    pub fn node_id(&self) -> &str {
        self.split().1
    }

    /// The loop and the item that the node runs for, where it is in a loop.
    #[must_use]
    pub fn item(&self) -> Option<(&str, u32)> {
        scope_item(self.scope())
    }

    /// The scope of one item of this loop.
    #[must_use]
    pub fn item_scope(&self, item: u32) -> String {
        format!("{}[{item}]/", self.0)
    }

    fn split(&self) -> (&str, &str) {
        self.0.rfind('/').map_or(("", self.0.as_str()), |slash| self.0.split_at(slash + 1))
    }
}

/// The loop and the item that a scope belongs to: `each[3]/` is item 3 of `each`.
pub(super) fn scope_item(scope: &str) -> Option<(&str, u32)> {
    let (owner, item) = scope.strip_suffix("]/")?.rsplit_once('[')?;
    Some((owner, item.parse().ok()?))
}

/// What the path of everything in the body of a loop begins with, at any depth.
pub(super) fn body_of(owner: &NodePath) -> String {
    format!("{}[", owner.as_str())
}

/// The loop around a scope with its index, and then the one around that, up to the top.
pub(super) fn loops_around(scope: &str) -> impl Iterator<Item = (&str, u32)> {
    std::iter::successors(scope_item(scope), |(owner, _)| {
        let outer = owner.rfind('/').map_or("", |slash| &owner[..=slash]);
        scope_item(outer)
    })
}

impl Borrow<str> for NodePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for NodePath {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}
