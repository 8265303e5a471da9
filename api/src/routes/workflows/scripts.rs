//! Scripts of a definition, checked when it is saved: a mistake is told with its line and column, before it costs a run.

use ledgerline_domain::{json::Json, limits::MAX_PROBLEMS};
use ledgerline_worker::script;
use serde_json::Value;

use crate::problem::FieldError;

/// The kind of node that has a script.
const KIND: &str = "code.javascript";

/// Everything in the scripts of a definition that is no JavaScript.
pub(super) fn wrong_scripts(definition: &Json) -> Vec<FieldError> {
    // Most definitions have none, and need not be read once more.
    if !definition.as_str().contains(KIND) {
        return Vec::new();
    }
    let definition = definition.to_value();
    let mut found = Vec::new();
    collect(&definition, "", &mut found);
    let codes: Vec<&str> = found.iter().map(|(_, code)| *code).collect();
    let checked = script::check(&codes).into_iter().zip(&found);
    let wrong = checked.filter_map(|(error, (pointer, _))| {
        let error = error?;
        Some(FieldError::new(pointer.clone(), "script_invalid", error.to_string()))
    });
    wrong.take(MAX_PROBLEMS).collect()
}

/// The scripts in a graph and in the bodies of its loops, with the places of their code.
fn collect<'a>(graph: &'a Value, place: &str, found: &mut Vec<(String, &'a str)>) {
    let nodes = graph.get("nodes").and_then(Value::as_array);
    for (index, node) in nodes.into_iter().flatten().enumerate() {
        let Some(config) = node.get("config") else { continue };
        let place = format!("{place}/nodes/{index}/config");
        if node.get("type").and_then(Value::as_str) == Some(KIND)
            && let Some(code) = config.get("code").and_then(Value::as_str)
        {
            found.push((format!("{place}/code"), code));
        }
        collect(config, &place, found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_script_that_is_none_is_told_with_its_place() {
        let script = |code: &str| json!({ "id": "x", "type": KIND, "config": { "code": code } });
        let body = json!({ "nodes": [script("return 1"), script("a b")] });
        let definition = json!({ "nodes": [
            script("return input"),
            { "id": "each", "type": "logic.for_each", "config": body },
            script("const a =\n  ;"),
        ]});
        let wrong = wrong_scripts(&definition.into());
        let places: Vec<&str> = wrong.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(places, ["/nodes/1/config/nodes/1/config/code", "/nodes/2/config/code"]);
        assert!(wrong[1].detail.contains("(line 2, column 3)"), "{}", wrong[1].detail);
    }
}
