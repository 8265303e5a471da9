//! Expressions (CEL) and templates behind one narrow door: nothing else of the product names the libraries that run them.
//!
//! What people write is hostile until shown otherwise, so every step is bounded: the length and depth of the source, the number and
//! nesting of macros, the size of what is read, the work of the evaluation and the size of what comes out (see [`crate::limits`]).
//! CEL itself has no such bound: [`cel`] weaves a counter into the syntax tree. Programs are compiled once per graph and shared.
//!
//! Evaluation takes up to some milliseconds of pure computing, so callers on async threads move it off them.

mod cel;
mod functions;
mod scope;
mod template;
mod veil;

use std::collections::HashMap;

pub use self::{
    cel::Expression,
    scope::Scope,
    template::{Template, TemplateValue},
    veil::{MASKED, Veil},
};
use crate::limits;

/// Why an expression or a template can't be compiled or evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// The source is longer than it may be.
    #[error("longer than {max_bytes} bytes")]
    TooLong {
        /// The bound.
        max_bytes: usize,
    },
    /// It is not in the language.
    #[error("{message}")]
    Syntax {
        /// What the parser says, for a person.
        message: String,
    },
    /// Parentheses, calls or operators nest too deep.
    #[error("nests deeper than {max} levels")]
    TooDeep {
        /// The bound.
        max: usize,
    },
    /// Macros nest too deep: each level is one more power of the list's length.
    #[error("macros (map, filter, all, exists, …) nest deeper than {max}")]
    MacrosTooDeep {
        /// The bound.
        max: usize,
    },
    /// A template uses `{% … %}` or `{# … #}`.
    #[error(
        "only `{{{{ … }}}}` is allowed in a template, no statements or comments; write `{{{{ \"{{%\" }}}}` for the text itself"
    )]
    Statement,
    /// A template has too many `{{ … }}` parts, or one has too many operators.
    #[error("too many {what}: at most {max}")]
    TooManyParts {
        /// Of what.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// It names a variable that nobody sets.
    #[error("unknown variable `{name}`; known are {}", known.join(", "))]
    UnknownVariable {
        /// The name.
        name: String,
        /// The names that are set.
        known: Vec<&'static str>,
    },
    /// It names a secret otherwise than `{{ secrets.<name> }}` by itself: the value of a secret is never computed with.
    #[error(
        "a secret stands alone in its braces, as `{{{{ secrets.<name> }}}}`, with text around them where needed"
    )]
    SecretNotAlone,
    /// A secret stands where none may.
    #[error("a secret can't be used in this field")]
    SecretMisplaced,
    /// It went wrong while it ran.
    #[error("{message}")]
    Evaluation {
        /// What the evaluator says, for a person.
        message: String,
    },
    /// A `{{ … }}` has no value.
    #[error("`{part}` has no value")]
    Undefined {
        /// The part.
        part: String,
    },
    /// It would take too much work.
    #[error("too much work for one evaluation")]
    TooExpensive,
    /// What it reads or makes is too large.
    #[error("{what} is larger than {max_bytes} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        max_bytes: usize,
    },
    /// The value can't be written as JSON.
    #[error("the value can't be written as JSON: {message}")]
    NotJson {
        /// Why.
        message: String,
    },
}

/// The variables that are always there.
const VARIABLES: [&str; 6] = ["input", "vars", "nodes", "execution", "workflow", "env"];

/// Which loops stand around a program: each kind sets variables of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Around {
    /// A `logic.for_each`, which sets `item` and `index`.
    pub(crate) each: bool,
    /// A `logic.while`, which sets `last` and `index`.
    pub(crate) repeat: bool,
}

impl Around {
    fn variables(self) -> Vec<&'static str> {
        let mut known = VARIABLES.to_vec();
        known.extend(self.each.then_some("item"));
        known.extend((self.each || self.repeat).then_some("index"));
        known.extend(self.repeat.then_some("last"));
        known
    }
}

/// What a program reads of its scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct References {
    /// Variables by name, sorted.
    variables: Vec<String>,
    /// Ids of nodes whose output it reads, sorted.
    nodes: Vec<String>,
}

impl References {
    fn new(variables: impl IntoIterator<Item = String>, nodes: Vec<String>) -> Self {
        let mut variables: Vec<String> = variables.into_iter().collect();
        variables.sort_unstable();
        variables.dedup();
        Self { variables, nodes }
    }

    /// Refuses a variable that nobody sets, where it can still be corrected.
    fn check(&self, around: Around) -> Result<(), ExpressionError> {
        let known = around.variables();
        match self.variables.iter().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) if name == "secrets" => Err(ExpressionError::SecretMisplaced),
            Some(name) => Err(ExpressionError::UnknownVariable { name: name.clone(), known }),
        }
    }

    fn reads(&self, variable: &str) -> bool {
        self.variables.iter().any(|name| name == variable)
    }
}

/// The ids that a source names as `nodes.<id>`, `nodes["<id>"]` or `nodes['<id>']`.
///
/// Read from the text, so that one rule serves both languages; a name inside a string literal is found too and does no harm. Any other
/// use of `nodes` is refused, because a program then reads every output of a run and what it depends on can't be told.
fn node_references(source: &str) -> Result<Vec<String>, ExpressionError> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut before = None;
    while let Some(at) = rest.find("nodes") {
        let preceding = rest[..at].chars().next_back().or(before);
        let after = &rest[at + "nodes".len()..];
        before = Some('s');
        rest = after;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if preceding.is_some_and(|c| is_word(c) || c == '.' || c == '"' || c == '\'')
            || after.chars().next().is_some_and(is_word)
        {
            continue;
        }
        found.push(node_reference(after).ok_or_else(|| {
            ExpressionError::Syntax {
                message: "name the node whose output is read: `nodes.<id>.output` or \
                      `nodes[\"<id>\"].output`"
                    .to_owned(),
            }
        })?);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The id right after `nodes`.
fn node_reference(after: &str) -> Option<String> {
    let after = after.trim_start();
    if let Some(field) = after.strip_prefix('.') {
        let field = field.trim_start();
        let end =
            field.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(field.len());
        let is_call = field[end..].trim_start().starts_with('(');
        return (end > 0 && !is_call).then(|| field[..end].to_owned());
    }
    let index = after.strip_prefix('[')?.trim_start();
    let quote = index.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (id, close) = index[1..].split_once(quote)?;
    close.trim_start().starts_with(']').then(|| id.to_owned())
}

/// Refuses, before a parser recurses over it, a source whose tree would be too deep for a thread's stack.
///
/// Brackets nest, and a chain of operators, calls or path steps makes a tree as deep as it is long: so brackets are counted, and within
/// one pair of them every sign that is not inside a string or comment. `,` begins a new chain.
fn check_depth(source: &str, language: Language) -> Result<(), ExpressionError> {
    let max_brackets = match language {
        Language::Cel => limits::MAX_EXPRESSION_DEPTH,
        Language::Template => limits::MAX_TEMPLATE_DEPTH,
    };
    let mut open: Vec<usize> = vec![0];
    let mut steps = 0;
    let mut rest = source;
    let mut before = "";
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '"' | '\'' => length_of_string(rest, language, before),
            '/' if language == Language::Cel && rest.starts_with("//") => {
                rest.find('\n').unwrap_or(rest.len())
            }
            _ => 0,
        };
        if skipped > 0 {
            (before, rest) = ("", &rest[skipped..]);
            continue;
        }
        match c {
            ',' => steps -= open.last_mut().map(std::mem::take).unwrap_or_default(),
            ')' | ']' | '}' if open.len() > 1 => steps -= open.pop().unwrap_or_default(),
            '(' | '[' | '{' | '+' | '-' | '*' | '/' | '%' | '!' | '?' | '<' | '>' | '=' | '.'
            | '&' | '|' | '~' => {
                steps += 1;
                if let Some(level) = open.last_mut() {
                    *level += 1;
                }
                if matches!(c, '(' | '[' | '{') {
                    open.push(0);
                }
            }
            _ => {}
        }
        if open.len() > max_brackets + 1 {
            return Err(ExpressionError::TooDeep { max: max_brackets });
        }
        if steps > limits::MAX_EXPRESSION_STEPS {
            return Err(ExpressionError::TooDeep { max: limits::MAX_EXPRESSION_STEPS });
        }
        (before, rest) = rest.split_at(c.len_utf8());
    }
    Ok(())
}

/// Which of the two languages a source is in: their strings differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    /// Has raw strings, strings in three quotes, and comments.
    Cel,
    /// Has none of them.
    Template,
}

/// How long the string is that begins here; to the end of the source where it does not end.
fn length_of_string(rest: &str, language: Language, before: &str) -> usize {
    let quote = &rest[..1];
    let raw = language == Language::Cel && matches!(before, "r" | "R");
    let triple = quote.repeat(3);
    let fence =
        if language == Language::Cel && rest.starts_with(&triple) { &triple } else { quote };
    let mut at = fence.len();
    while at < rest.len() {
        if rest[at..].starts_with(fence) {
            return at + fence.len();
        }
        let mut chars = rest[at..].chars();
        if !raw && rest[at..].starts_with('\\') {
            chars.next();
        }
        chars.next();
        at = rest.len() - chars.as_str().len();
    }
    rest.len()
}

/// Compiles each distinct source once: the nodes of a graph share their programs.
pub(crate) struct Compiler {
    expressions: HashMap<String, Result<Expression, ExpressionError>>,
    templates: HashMap<String, Result<Template, ExpressionError>>,
}

impl Compiler {
    pub(crate) fn new() -> Self {
        Self { expressions: HashMap::new(), templates: HashMap::new() }
    }

    pub(crate) fn expression(&mut self, source: &str) -> Result<Expression, ExpressionError> {
        if let Some(compiled) = self.expressions.get(source) {
            return compiled.clone();
        }
        let compiled = Expression::parse(source);
        self.expressions.insert(source.to_owned(), compiled.clone());
        compiled
    }

    pub(crate) fn template(&mut self, source: &str) -> Result<Template, ExpressionError> {
        if !Template::is_dynamic(source) {
            return Template::parse(source);
        }
        if let Some(compiled) = self.templates.get(source) {
            return compiled.clone();
        }
        let compiled = Template::parse(source);
        self.templates.insert(source.to_owned(), compiled.clone());
        compiled
    }
}

/// Whether a value nests deeper than any reader can be trusted with.
pub(crate) fn nests_too_deep(value: &serde_json::Value) -> bool {
    fn deeper(value: &serde_json::Value, left: usize) -> bool {
        match value {
            serde_json::Value::Array(items) => {
                left == 0 || items.iter().any(|item| deeper(item, left - 1))
            }
            serde_json::Value::Object(entries) => {
                left == 0 || entries.values().any(|item| deeper(item, left - 1))
            }
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => false,
        }
    }
    deeper(value, limits::MAX_JSON_DEPTH)
}

/// The first part of a message: a library may put a whole input into one.
fn shortened(message: impl std::fmt::Display) -> String {
    const MAX_CHARS: usize = 500;
    let text = message.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
