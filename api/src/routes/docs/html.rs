//! OpenAPI and Markdown as HTML. Every text goes through [`escape`].

use ledgerline_domain::permission::{Permission, Role};
use serde_json::Value;

use crate::{access::scope_of, problem::ProblemKind, refusal::word};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title} · Ledgerline</title><link rel=\"stylesheet\" href=\"/docs/style.css\"></head><body>\
         <nav><a href=\"/docs\">Overview</a><a href=\"/redoc\">Reference</a><a href=\"/docs/problems\">Problems</a>\
         <a href=\"/openapi.json\">openapi.json</a></nav><main><h1>{title}</h1>{body}</main></body></html>",
        title = escape(title)
    )
}

struct Operation<'a> {
    method: &'static str,
    path: &'a str,
    value: &'a Value,
}

impl Operation<'_> {
    fn text(&self, key: &str) -> &str {
        self.value[key].as_str().unwrap_or("")
    }

    fn anchor(&self) -> String {
        let path: String =
            self.path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        format!("{}{path}", self.method)
    }
}

fn operations<'a>(document: &'a Value, tag: &str) -> Vec<Operation<'a>> {
    let Some(paths) = document["paths"].as_object() else { return Vec::new() };
    paths
        .iter()
        .flat_map(|(path, item)| {
            METHODS.iter().filter_map(move |method| {
                let value = item.get(*method)?;
                Some(Operation { method, path, value })
            })
        })
        .filter(|operation| operation.value["tags"][0] == tag)
        .collect()
}

/// The tags with what they stand for, in the order of the document.
fn tags(document: &Value) -> Vec<(&str, &str)> {
    let tags = document["tags"].as_array().map_or(&[][..], Vec::as_slice);
    tags.iter()
        .filter_map(|tag| Some((tag["name"].as_str()?, tag["description"].as_str().unwrap_or(""))))
        .collect()
}

/// All operations in tables, each with a link into the reference.
pub(super) fn overview(document: &Value) -> String {
    let mut body =
        format!("<p>{}</p>", escape(document["info"]["description"].as_str().unwrap_or("")));
    for (tag, description) in tags(document) {
        body.push_str(&format!(
            "<h2 id=\"{0}\">{0}</h2><p class=\"quiet\">{1}</p><table>",
            escape(tag),
            escape(description)
        ));
        for operation in operations(document, tag) {
            body.push_str(&format!(
                "<tr><td><span class=\"method\">{}</span></td><td><a href=\"/redoc#{}\"><code>{}</code></a></td><td>{}</td></tr>",
                operation.method.to_uppercase(),
                escape(&operation.anchor()),
                escape(operation.path),
                inline(operation.text("summary"))
            ));
        }
        body.push_str("</table>");
    }
    body.push_str(&roles());
    page("The API", &body)
}

/// The role matrix, from the function that every route and socket asks.
fn roles() -> String {
    let names: String =
        Role::ALL.iter().map(|role| format!("<th>{}</th>", escape(role.as_str()))).collect();
    let mut text = format!(
        "<h2 id=\"roles\">roles</h2><p class=\"quiet\">What a member of a workspace may do, by role. An API key needs the scope beside \
         it, and never may more than its person.</p><table><tr><th></th>{names}<th>scope of a key</th></tr>"
    );
    for permission in Permission::ALL {
        let marks = Role::ALL.map(|role| if role.may(permission) { "✓" } else { "" });
        let marks: String = marks.iter().map(|mark| format!("<td>{mark}</td>")).collect();
        let scope = scope_of(permission).as_str();
        text.push_str(&format!("<tr><td>{}</td>{marks}<td>{scope}</td></tr>", word(permission)));
    }
    text.push_str("</table>");
    text
}

/// Every operation with parameters, body, answers and an example, then every shape.
pub(super) fn reference(document: &Value) -> String {
    let mut body = String::new();
    for (tag, description) in tags(document) {
        body.push_str(&format!(
            "<h2>{}</h2><p class=\"quiet\">{}</p>",
            escape(tag),
            escape(description)
        ));
        for operation in operations(document, tag) {
            body.push_str(&reference_of(&operation));
        }
    }
    body.push_str("<h2>Shapes</h2>");
    if let Some(schemas) = document["components"]["schemas"].as_object() {
        for (name, schema) in schemas {
            body.push_str(&format!(
                "<h3 id=\"shape-{0}\">{0}</h3><p>{1}</p>{2}",
                escape(name),
                inline(schema["description"].as_str().unwrap_or("")),
                properties(schema)
            ));
        }
    }
    page("Reference", &body)
}

fn reference_of(operation: &Operation<'_>) -> String {
    let mut text = format!(
        "<h3 id=\"{}\"><span class=\"method\">{}</span><code>{}</code></h3><p>{}</p><p>{}</p>",
        escape(&operation.anchor()),
        operation.method.to_uppercase(),
        escape(operation.path),
        inline(operation.text("summary")),
        inline(operation.text("description"))
    );
    if let Some(parameters) = operation.value["parameters"].as_array() {
        text.push_str("<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>");
        for parameter in parameters {
            text.push_str(&format!(
                "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(parameter["name"].as_str().unwrap_or("")),
                escape(parameter["in"].as_str().unwrap_or("")),
                type_of(&parameter["schema"]),
                inline(parameter["description"].as_str().unwrap_or(""))
            ));
        }
        text.push_str("</table>");
    }
    let body = &operation.value["requestBody"]["content"]["application/json"]["schema"];
    if !body.is_null() {
        text.push_str(&format!("<p>Body: {}</p>", type_of(body)));
    }
    text.push_str("<table><tr><th>status</th><th>answer</th></tr>");
    if let Some(responses) = operation.value["responses"].as_object() {
        for (status, response) in responses {
            let content = response["content"].as_object().and_then(|content| content.iter().next());
            let answer = content.map_or_else(String::new, |(media, content)| {
                format!(
                    "{} <span class=\"quiet\">{}</span>",
                    type_of(&content["schema"]),
                    escape(media)
                )
            });
            text.push_str(&format!("<tr><td>{}</td><td>{answer}</td></tr>", escape(status)));
        }
    }
    text.push_str("</table>");
    text.push_str(&format!("<pre>{}</pre>", escape(&example(operation))));
    text
}

fn example(operation: &Operation<'_>) -> String {
    let mut call = "curl".to_owned();
    if operation.method != "get" {
        call.push_str(&format!(" -X {}", operation.method.to_uppercase()));
    }
    call.push_str(&format!(" \"$LEDGERLINE{}\"", operation.path));
    let open = operation.value["security"]
        .as_array()
        .is_some_and(|all| all.contains(&Value::Object(serde_json::Map::new())));
    if !open {
        call.push_str(" -H \"Authorization: Bearer $TOKEN\"");
    }
    if !operation.value["requestBody"].is_null() {
        call.push_str(" -H \"Content-Type: application/json\" -d @body.json");
    }
    call
}

fn properties(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .map(|value| format!("<code>{}</code>", escape(value.as_str().unwrap_or(""))))
            .collect();
        return format!("<p>One of {}.</p>", values.join(", "));
    }
    let Some(properties) = schema["properties"].as_object() else {
        return format!("<p>{}</p>", type_of(schema));
    };
    let required = |name: &str| {
        schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name))
    };
    let mut table = "<table>".to_owned();
    for (name, property) in properties {
        table.push_str(&format!(
            "<tr><td><code>{}</code></td><td>{}{}</td><td>{}</td></tr>",
            escape(name),
            type_of(property),
            if required(name) { "" } else { " <span class=\"quiet\">optional</span>" },
            inline(property["description"].as_str().unwrap_or(""))
        ));
    }
    table.push_str("</table>");
    table
}

fn type_of(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = escape(reference.rsplit('/').next().unwrap_or(""));
        return format!("<a href=\"#shape-{name}\">{name}</a>");
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(parts) = schema[key].as_array() {
            let parts: Vec<String> = parts.iter().map(type_of).collect();
            return parts.join(if key == "allOf" { " and " } else { " or " });
        }
    }
    let name = match &schema["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")
        }
        _ => return String::new(),
    };
    if name == "array" {
        return format!("list of {}", type_of(&schema["items"]));
    }
    match schema["format"].as_str() {
        Some(format) => {
            format!("{} <span class=\"quiet\">{}</span>", escape(&name), escape(format))
        }
        None => escape(&name),
    }
}

/// All kinds of problems with their status.
pub(super) fn problems() -> String {
    let mut body = "<p>Every failure is an RFC 9457 document whose <code>type</code> leads to one of these pages.</p><table>".to_owned();
    for kind in ProblemKind::ALL {
        body.push_str(&format!(
            "<tr><td>{}</td><td><a href=\"{}\">{}</a></td></tr>",
            kind.status().as_u16(),
            kind.type_uri(),
            escape(kind.title())
        ));
    }
    body.push_str("</table>");
    page("Problems", &body)
}

/// The page of one kind of problem.
pub(super) fn problem(kind: ProblemKind) -> String {
    let markdown = kind.page();
    let rest = markdown.split_once('\n').map_or("", |(_, rest)| rest);
    page(kind.title(), &blocks(rest))
}

/// The few forms of Markdown that our pages use: headings, paragraphs, and inside of them code and links.
fn blocks(markdown: &str) -> String {
    markdown
        .split("\n\n")
        .map(str::trim)
        .filter(|block| !block.is_empty())
        .map(|block| match block.strip_prefix("## ") {
            Some(heading) => format!("<h2>{}</h2>", inline(heading)),
            None => format!("<p>{}</p>", inline(block)),
        })
        .collect()
}

fn inline(text: &str) -> String {
    let mut out = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            out.push_str(&format!("<code>{}</code>", escape(part)));
        } else {
            out.push_str(&links(part));
        }
    }
    out
}

/// `[text](/path)`; only paths of our own become links.
fn links(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        let link = after.split_once("](").and_then(|(label, tail)| {
            let (target, tail) = tail.split_once(')')?;
            target.starts_with('/').then_some((label, target, tail))
        });
        out.push_str(&escape(before));
        match link {
            Some((label, target, tail)) => {
                out.push_str(&format!("<a href=\"{}\">{}</a>", escape(target), escape(label)));
                rest = tail;
            }
            None => {
                out.push('[');
                rest = after;
            }
        }
    }
    out.push_str(&escape(rest));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(
            inline("a <b> `c<d>` [x](/y?a=\"1\")"),
            "a &lt;b&gt; <code>c&lt;d&gt;</code> <a href=\"/y?a=&quot;1&quot;\">x</a>"
        );
        assert_eq!(inline("[x](javascript:alert(1))"), "[x](javascript:alert(1))");
    }

    #[test]
    fn the_role_matrix_is_shown_as_it_is_asked() {
        let text = roles();
        for permission in Permission::ALL {
            let row = text
                .split("<tr>")
                .find(|row| row.contains(&format!("<td>{}</td>", word(permission))));
            let marks =
                row.unwrap_or_else(|| panic!("{permission:?} is missing")).matches('✓').count();
            let may = Role::ALL.into_iter().filter(|role| role.may(permission)).count();
            assert_eq!(marks, may, "{permission:?}");
        }
    }

    #[test]
    fn every_operation_is_on_both_pages_and_nothing_comes_from_elsewhere() {
        let document = serde_json::to_value(crate::router::openapi()).unwrap();
        let (overview, reference) = (overview(&document), reference(&document));
        for path in document["paths"].as_object().unwrap().keys() {
            assert!(
                overview.contains(&escape(path)) && reference.contains(&escape(path)),
                "{path}"
            );
        }
        for page in [&overview, &reference, &problems()] {
            assert!(
                !page.contains("<script") && !page.contains("http://") && !page.contains("src=")
            );
        }
    }
}
