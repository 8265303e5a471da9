//! The catalogue of events as Markdown.
//!
//! What an event means is said once, in the doc comment of its struct; this reads it from the source, as rustdoc does, and the example
//! from the golden file.

use std::{fmt::Write as _, fs, path::Path};

use ledgerline_domain::{
    audit::AuditEvent, deployment::DeploymentEvent, event::DomainEvent, execution::ExecutionEvent,
    trigger::TriggerEvent, vault::VaultEvent, workflow::WorkflowEvent, workspace::WorkspaceEvent,
};

/// The text of `docs/events.md`.
pub(crate) fn document(root: &Path) -> String {
    let mut text = String::from(
        "# Events\n\n\
         Every fact that the log holds, by aggregate. Generated: `cargo run -p ledgerline-domain --example event_catalogue`.\n\n\
         An event is stored with its type, the version of its payload, and metadata (who, why, in which request). Outside, it is a\n\
         CloudEvent whose `type` is given here and whose `data` is the payload. A change of a payload's shape is a new version; old ones\n\
         stay readable.\n",
    );
    aggregate::<WorkspaceEvent>(root, &["workspace.rs"], &mut text);
    aggregate::<WorkflowEvent>(root, &["workflow.rs", "workflow/events.rs"], &mut text);
    aggregate::<ExecutionEvent>(
        root,
        &[
            "execution.rs",
            "execution/events.rs",
            "execution/events/origin.rs",
            "execution/events/waits.rs",
        ],
        &mut text,
    );
    aggregate::<VaultEvent>(root, &["vault.rs"], &mut text);
    aggregate::<DeploymentEvent>(root, &["deployment.rs"], &mut text);
    aggregate::<TriggerEvent>(root, &["trigger.rs", "trigger/events.rs"], &mut text);
    aggregate::<AuditEvent>(root, &["audit.rs"], &mut text);
    text
}

fn aggregate<E: DomainEvent>(root: &Path, files: &[&str], text: &mut String) {
    let read = |file: &&str| fs::read_to_string(root.join("domain/src").join(file)).ok();
    let source: Vec<String> = files.iter().filter_map(read).collect();
    let lines: Vec<&str> = source.iter().flat_map(|file| file.lines()).collect();
    let _ = write!(text, "\n## {}\n", E::CATEGORY);
    for (r#type, version) in E::TYPES {
        let structure = Structure::find(&lines, &in_camel_case(r#type));
        let _ = write!(text, "\n### {type}, version {version}\n\n{}\n\n", structure.meaning);
        let _ = writeln!(text, "`ledgerline.{}.{type}.v{version}`", E::CATEGORY);
        if !structure.fields.is_empty() {
            text.push_str("\n| field | type | meaning |\n| --- | --- | --- |\n");
        }
        for (name, kind, meaning) in structure.fields {
            let _ = writeln!(text, "| `{name}` | `{kind}` | {meaning} |");
        }
        let file = format!("tests/golden/events/{}.{type}.v{version}.json", E::CATEGORY);
        let payload = fs::read_to_string(root.join(file)).unwrap_or_default();
        let _ = write!(text, "\n```json\n{payload}```\n");
    }
}

/// What the source says about a struct.
#[derive(Default)]
struct Structure {
    meaning: String,
    fields: Vec<(String, String, String)>,
}

impl Structure {
    fn find(lines: &[&str], name: &str) -> Self {
        let mut found = Self::default();
        let heads = [format!("pub struct {name} {{"), format!("pub struct {name} {{}}")];
        let Some(at) = lines.iter().position(|line| heads.iter().any(|head| head == line)) else {
            return found;
        };
        found.meaning = comment_above(lines, at);
        if lines[at].ends_with("{}") {
            return found;
        }
        for (offset, line) in lines[at + 1..].iter().enumerate() {
            if *line == "}" {
                break;
            }
            let Some((field, kind)) =
                line.trim().strip_prefix("pub ").and_then(|field| field.split_once(": "))
            else {
                continue;
            };
            let meaning = comment_above(lines, at + 1 + offset);
            let kind = kind.trim_end_matches(',').to_owned();
            found.fields.push((field.trim_start_matches("r#").to_owned(), kind, meaning));
        }
        found
    }
}

/// The doc comment above a line, attributes between them skipped, as one line.
fn comment_above(lines: &[&str], at: usize) -> String {
    let mut comment: Vec<&str> = Vec::new();
    for line in lines[..at].iter().rev() {
        let line = line.trim();
        if let Some(sentence) = line.strip_prefix("///") {
            comment.push(sentence.trim());
        } else if !line.starts_with("#[") {
            break;
        }
    }
    comment.reverse();
    comment.join(" ").replace("[`crate::limits::", "[`").replace("[`", "`").replace("`]", "`")
}

fn in_camel_case(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let (first, rest) = word.split_at(1);
            first.to_uppercase() + rest
        })
        .collect()
}
