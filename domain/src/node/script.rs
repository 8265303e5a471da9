//! `code.javascript`: a script that computes a value from what it is given, in a sandbox of the worker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{NodeConfig, ResolveError};
use crate::{
    expression::{Scope, TemplateValue},
    graph::{Fields, ProblemCode, Reader},
    json::Json,
    limits,
};

/// A script.
#[derive(Clone, Debug, PartialEq)]
pub struct JavascriptConfig {
    /// The body of an async function: what it returns is the output.
    pub code: String,
    /// What it sees as `input`; none for the input of the run.
    pub input: Option<TemplateValue>,
    /// Ids of the nodes whose outputs it names: `nodes.fetch`, `nodes["fetch"]`.
    nodes: Vec<String>,
}

/// A script with the values that it sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedJavascript {
    /// The body of an async function.
    pub code: String,
    /// What it sees as `input`.
    pub input: Json,
    /// The variables of the run.
    pub vars: BTreeMap<String, Json>,
    /// `{output}` of the nodes that it names.
    pub nodes: BTreeMap<String, NodeValue>,
    /// The item of the innermost `logic.for_each`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Json>,
    /// The index of the innermost loop, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// What the iteration before gave in the innermost `logic.while`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Json>,
}

/// What a script sees of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeValue {
    /// Its output.
    pub output: Json,
}

/// Reads a configuration.
pub(super) fn read(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let place = fields.place_of("code");
    let input =
        fields.get("input").map(|input| reader.template_value(input, &fields.place_of("input")));
    let code = fields.required("code", reader)?;
    let Some(code) = code.as_str() else {
        reader.wrong_type(&place, "JavaScript (a string)", code);
        return None;
    };
    if code.len() > limits::MAX_SCRIPT_BYTES {
        let reason = format!("a script has at most {} bytes", limits::MAX_SCRIPT_BYTES);
        reader.report(&place, ProblemCode::OutOfRange, reason);
    }
    let config = JavascriptConfig { code: code.to_owned(), input, nodes: named_nodes(code) };
    Some(NodeConfig::Javascript(Box::new(config)))
}

/// The JSON Schema of a configuration.
pub(super) fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "code": {
                "type": "string",
                "format": "javascript",
                "title": "Code: the body of an async function of input, vars, nodes, item, index and last",
                "maxLength": limits::MAX_SCRIPT_BYTES,
            },
            "input": { "title": "Input (that of the run where it is left out)", "format": "template" },
        },
        "required": ["code"],
        "additionalProperties": false,
    })
}

impl JavascriptConfig {
    /// Ids of the nodes that its code names.
    pub(super) fn named_nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(String::as_str)
    }

    /// The script with the values that it sees.
    pub(super) fn resolve(&self, scope: &Scope) -> Result<ResolvedJavascript, ResolveError> {
        let given = self.input.as_ref().map(|input| input.evaluate(scope)).transpose();
        let given = given.map_err(|error| ResolveError { field: "/input".to_owned(), error })?;
        let value = |id: &String| {
            let output = scope.nodes.get(id)?.clone();
            Some((id.clone(), NodeValue { output }))
        };
        Ok(ResolvedJavascript {
            code: self.code.clone(),
            input: given.map_or_else(|| scope.input.clone(), Json::from),
            vars: scope.vars.clone(),
            nodes: self.nodes.iter().filter_map(value).collect(),
            item: scope.item.clone(),
            index: scope.index,
            last: scope.last.clone(),
        })
    }
}

/// The ids that a script names as `nodes.id`, `nodes?.id`, `nodes["id"]` or `nodes['id']`. Only their outputs are looked up, so a name
/// that is put together while it runs finds nothing. One that is only in a comment costs a look-up and no more.
fn named_nodes(code: &str) -> Vec<String> {
    const WORD: &str = "nodes";
    let is_part = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '$');
    let mut ids = Vec::new();
    for (start, _) in code.match_indices(WORD) {
        if code[..start].chars().next_back().is_some_and(|before| is_part(before) || before == '.')
        {
            continue;
        }
        let rest = code[start + WORD.len()..].trim_start();
        let (rest, dotted) = match (rest.strip_prefix("?."), rest.strip_prefix('.')) {
            (Some(rest), _) => (rest.trim_start(), !rest.trim_start().starts_with('[')),
            (None, Some(rest)) => (rest.trim_start(), true),
            (None, None) => (rest, false),
        };
        let id = if dotted {
            rest.split(|letter| !is_part(letter)).next()
        } else {
            let rest = rest.strip_prefix('[').unwrap_or_default().trim_start();
            let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\'' | '`'));
            quote.and_then(|quote| rest[1..].split(quote).next())
        };
        ids.extend(id.filter(|id| super::is_id(id)).map(str::to_owned));
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_that_a_script_names_are_found() {
        let code = "const a = nodes.fetch.output + nodes?.other?.output; // nodes.noted
            return nodes['with-dash'].output + nodes [ \"spaced\" ] + mynodes.no + x.nodes.no + nodes[name] + nodes?.['opt'] + nodes . far";
        assert_eq!(
            named_nodes(code),
            ["far", "fetch", "noted", "opt", "other", "spaced", "with-dash"]
        );
        for code in ["nodes", "nodes.", "nodes[", "nodes['", "nodes['é", "nodes.é", "nodes?."] {
            assert!(named_nodes(code).is_empty(), "{code}");
        }
    }

    #[test]
    fn a_script_sees_what_its_scope_has() {
        let definition = json!({ "nodes": [
            { "id": "one", "type": "logic.transform", "config": { "expression": "1" } },
            { "id": "js", "type": "code.javascript", "config": {
                "code": "return nodes.one.output + vars.a", "input": { "x": "{{ nodes.one.output }}", "y": 2 } } },
        ], "connections": [{ "from": "one", "to": "js" }] });
        let graph = crate::graph::Graph::parse(&definition).expect("sound");
        let node = graph.node_by_id("js").expect("there");
        assert_eq!(node.references(), ["one"]);
        let scope = Scope {
            vars: BTreeMap::from([("a".to_owned(), Json::from(json!(5)))]),
            nodes: BTreeMap::from([("one".to_owned(), Json::from(json!(1)))]),
            ..Scope::of_input(json!({ "run": true }).into())
        };
        let resolved = node.resolve(&scope).expect("resolves");
        assert_eq!(
            resolved.input().to_value(),
            json!({
                "code": "return nodes.one.output + vars.a", "input": { "x": 1, "y": 2 },
                "vars": { "a": 5 }, "nodes": { "one": { "output": 1 } },
            })
        );
        assert_eq!(
            super::super::Resolved::from_input(resolved.kind(), &resolved.input()).ok(),
            Some(resolved)
        );
    }

    #[test]
    fn what_is_no_script_is_refused() {
        for (config, field, code) in [
            (json!({}), "/nodes/0/config/code", ProblemCode::Required),
            (json!({ "code": 7 }), "/nodes/0/config/code", ProblemCode::WrongType),
            (
                json!({ "code": "x".repeat(65_537) }),
                "/nodes/0/config/code",
                ProblemCode::OutOfRange,
            ),
            (
                json!({ "code": "", "input": "{{ 1 +" }),
                "/nodes/0/config/input",
                ProblemCode::ExpressionInvalid,
            ),
            (
                json!({ "code": "", "timeout": 1 }),
                "/nodes/0/config/timeout",
                ProblemCode::UnknownField,
            ),
        ] {
            let definition =
                json!({ "nodes": [{ "id": "js", "type": "code.javascript", "config": config }] });
            let problems = crate::graph::Graph::parse(&definition).expect_err("unsound");
            let found: Vec<_> =
                problems.iter().map(|problem| (problem.field.as_str(), problem.code)).collect();
            assert_eq!(found, [(field, code)], "{config}");
        }
    }
}
