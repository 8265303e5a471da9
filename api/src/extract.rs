//! What handlers take: everything of a request that has a meaning of its own, checked before the handler runs.
//!
//! Every extractor refuses with a [`Problem`](crate::problem::Problem), so bad input is answered in one form and never as a 500.
//!
//! | extractor | is |
//! | --- | --- |
//! | [`Caller`] | who asks; every protected handler has one |
//! | [`RequestContext`] | correlation id, trace, network address, user agent, the time |
//! | [`JsonBody`] | the body as a type, with the hash that idempotency needs |
//! | [`Path`], [`Query`] | parameters as a type |
//! | [`ListQuery`] | limit, cursor, offset, sort |
//! | [`WorkspaceSelector`], [`Idempotency`], [`IfMatch`], [`IfPlan`], [`MinPosition`], [`AsOf`], [`DryRun`] | the conventions of the API |

pub mod body;
pub mod caller;
pub mod context;
pub mod conventions;
pub mod params;

pub use body::JsonBody;
pub use caller::{Caller, Credential};
pub use context::RequestContext;
pub use conventions::{
    AsOf, DryRun, Idempotency, IfMatch, IfPlan, MinPosition, PositionToken, WorkspaceSelector,
};
pub use params::{ListQuery, Path, Query, Sort};
