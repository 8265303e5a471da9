//! Merges and loops in a round.

use ledgerline_domain::{
    execution::{Attempt, ChildRun, ErrorKind, Gather, NodePath, Step},
    expression::Scope,
    json::Json,
    limits::MAX_INLINE_OUTPUT_BYTES,
    node::{Resolved, ResolvedWorkflow},
};
use serde_json::json;

use super::{Round, unresolved};
use crate::values::{cleaned, detailed, failure};

impl Round<'_> {
    /// What came is passed on as it is where it is one output, so that a blob stays unread.
    pub(super) fn merge(
        &mut self,
        path: NodePath,
        attempt: Attempt,
        output: &Gather,
    ) -> Option<Step> {
        if let Some(output) = output.as_is() {
            let (port, variable, duration_ms) = (None, None, 0);
            return Some(Step::Complete { path, attempt, output, port, variable, duration_ms });
        }
        let output = self.gathered(output)?;
        Some(self.ended(path, attempt, Ok(output), None, None, 0))
    }

    pub(super) fn open_loop(&mut self, path: NodePath, attempt: Attempt) -> Option<Step> {
        let items = match self.resolved(&path)? {
            Ok(Resolved::ForEach(resolved)) => resolved.items,
            Ok(Resolved::While(resolved)) => {
                let max_iterations = resolved.max_iterations;
                return Some(Step::OpenWhile { path, attempt, max_iterations });
            }
            Ok(other) => {
                let error = failure(
                    ErrorKind::Permanent,
                    format!("{} is not a loop", other.kind().as_str()),
                );
                return Some(self.ended(path, attempt, Err(error), None, None, 0));
            }
            Err(error) => return Some(self.ended(path, attempt, Err(error), None, None, 0)),
        };
        let items: Vec<Json> = items.iter().map(Json::from_value).collect();
        let bytes: usize = items.iter().map(|item| item.as_str().len()).sum();
        if bytes > MAX_INLINE_OUTPUT_BYTES {
            let error = failure(
                ErrorKind::Validation,
                format!(
                    "the items of the loop are larger than {MAX_INLINE_OUTPUT_BYTES} bytes together"
                ),
            );
            return Some(self.ended(path, attempt, Err(error), None, None, 0));
        }
        self.bytes += bytes;
        Some(Step::OpenLoop { path, attempt, items })
    }

    /// Another run, under an id that follows from this one: however often it is asked for, it is one.
    pub(super) fn start_child(
        &mut self,
        path: NodePath,
        attempt: Attempt,
        resolved: &Resolved,
        child: &ResolvedWorkflow,
    ) -> Step {
        let given = cleaned(child.input.clone()).map(|input| Json::from_value(&input));
        let given = given.and_then(|given| {
            let size = given.as_str().len();
            if size <= MAX_INLINE_OUTPUT_BYTES {
                return Ok(given);
            }
            let message = format!(
                "the input of the child has {size} bytes, more than {MAX_INLINE_OUTPUT_BYTES}"
            );
            Err(failure(ErrorKind::Validation, message))
        });
        let given = match given {
            Ok(given) => given,
            Err(error) => return self.ended(path, attempt, Err(error), None, None, 0),
        };
        self.bytes += 2 * given.as_str().len();
        let child = ChildRun {
            execution_id: self.beginning.execution.child(&path, attempt),
            workflow_id: child.workflow_id,
            version: child.version,
            input: given,
            waits: child.wait,
        };
        Step::StartChild { path, attempt, input: resolved.input(), child }
    }

    /// Once more, or over: by the condition, and never more often than the loop may.
    pub(super) fn check_condition(
        &mut self,
        path: NodePath,
        attempt: Attempt,
        (iteration, max_iterations): (u32, u32),
        last: &Gather,
    ) -> Option<Step> {
        let last = self.gathered(last)?;
        let result = self.scope(&path)?.and_then(|scope| {
            let index = Some(u64::from(iteration));
            let scope = Scope { index, last: Some(last.clone()), ..scope };
            self.known(&path)?.goes_on(&scope).map_err(unresolved)
        });
        let result = match result {
            Ok(true) if iteration < max_iterations => {
                return Some(Step::Iterate { path, iteration });
            }
            Ok(true) => Err(detailed(
                ErrorKind::Permanent,
                format!("the condition still holds after {max_iterations} iterations"),
                &json!({"max_iterations": max_iterations}),
            )),
            Ok(false) => {
                Json::parse(&format!(r#"{{"output":{},"iterations":{iteration}}}"#, last.as_str()))
                    .map_err(|_| failure(ErrorKind::Permanent, "the last output is no JSON"))
            }
            Err(error) => Err(error),
        };
        Some(self.ended(path, attempt, result, None, None, 0))
    }
}
