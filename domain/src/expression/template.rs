//! Templates: text with `{{ … }}` parts, in the expression language of minijinja.
//!
//! Only `{{ … }}` has a meaning. Statements (`{% set %}`, loops, macros) are refused, because with them a short text can double a value
//! without end and no instruction count notices; what is left can grow a value only by the operators and filters that are bounded here.
//! A string that is exactly one `{{ … }}` keeps the type of its value, so that numbers, lists and objects pass through.

use std::{fmt, fmt::Write as _, panic, sync::Arc, sync::LazyLock};

use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior,
    value::{Serde, Value as JinjaValue},
};
use serde_json::{Map, Value};

use super::{
    Around, ExpressionError, Language, References, Scope, Veil, check_depth, nests_too_deep,
    node_references, shortened,
};
use crate::{limits, vault::SecretName};

/// The engine with its bounds: a constant that takes code to make.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(engine);

/// A compiled template. Cheap to clone; equal when the source is equal.
#[derive(Clone)]
pub struct Template(Arc<Compiled>);

struct Compiled {
    source: String,
    parts: Vec<Part>,
    references: References,
}

enum Part {
    Text(String),
    Secret(SecretName),
    Value { source: String, program: minijinja::Expression<'static, 'static> },
}

impl Template {
    /// Whether a text has parts to evaluate, or something that only looks so and is refused.
    pub(crate) fn is_dynamic(source: &str) -> bool {
        source.contains("{{") || source.contains("{%") || source.contains("{#")
    }

    /// Compiles a text.
    ///
    /// # Errors
    /// When it is too long, a part of it is not an expression, or it has statements.
    pub fn parse(source: &str) -> Result<Self, ExpressionError> {
        if source.len() > limits::MAX_TEMPLATE_BYTES {
            return Err(ExpressionError::TooLong { max_bytes: limits::MAX_TEMPLATE_BYTES });
        }
        if !Self::is_dynamic(source) {
            let parts = vec![Part::Text(source.to_owned())];
            let references = References::default();
            return Ok(Self(Arc::new(Compiled { source: source.to_owned(), parts, references })));
        }
        let (mut parts, mut variables, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        for piece in split(source)? {
            match piece {
                Piece::Text(text) => parts.push(Part::Text(text.to_owned())),
                Piece::Value(text) if secret_reference(text).is_some() => {
                    parts.extend(secret_reference(text).map(Part::Secret));
                }
                Piece::Value(text) => {
                    if parts.len() > 2 * limits::MAX_TEMPLATE_PARTS {
                        return Err(ExpressionError::TooManyParts {
                            what: "`{{ … }}` parts",
                            max: limits::MAX_TEMPLATE_PARTS,
                        });
                    }
                    let program = compile(text)?;
                    let read = program.undeclared_variables(false);
                    if read.contains(SECRETS) {
                        return Err(ExpressionError::SecretNotAlone);
                    }
                    variables.extend(read);
                    nodes.extend(node_references(text)?);
                    parts.push(Part::Value { source: text.trim().to_owned(), program });
                }
            }
        }
        nodes.sort_unstable();
        nodes.dedup();
        let references = References::new(variables, nodes);
        Ok(Self(Arc::new(Compiled { source: source.to_owned(), parts, references })))
    }

    /// The source as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The text, where nothing has to be evaluated.
    #[must_use]
    pub fn constant(&self) -> Option<&str> {
        match self.0.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Ids of the nodes whose output it reads.
    pub fn node_references(&self) -> impl Iterator<Item = &str> {
        self.0.references.nodes.iter().map(String::as_str)
    }

    pub(crate) fn check_variables(&self, around: Around) -> Result<(), ExpressionError> {
        self.0.references.check(around)
    }

    /// Whether it reads this variable.
    pub(crate) fn reads(&self, variable: &str) -> bool {
        self.0.references.reads(variable)
    }

    /// The secrets that it names.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.0.parts.iter().filter_map(|part| match part {
            Part::Secret(name) => Some(name),
            Part::Text(_) | Part::Value { .. } => None,
        })
    }

    /// Its value: of any type where it is exactly one `{{ … }}`, else a string.
    ///
    /// # Errors
    /// When a part has no value or can't be evaluated, or the result is too large.
    pub fn evaluate(&self, scope: &Scope) -> Result<Value, ExpressionError> {
        if let Some(text) = self.constant() {
            return Ok(Value::from(text));
        }
        let veil = scope.veil.as_ref();
        if veil.is_none() && self.secrets().next().is_some() {
            return Err(ExpressionError::SecretMisplaced);
        }
        let variables = scope.read(&self.0.references)?;
        // A bug of the library in this one evaluation is an error of this one evaluation.
        panic::catch_unwind(panic::AssertUnwindSafe(|| self.run(variables, veil))).unwrap_or_else(
            |_| {
                Err(ExpressionError::Evaluation {
                    message: "this template can't be evaluated".to_owned(),
                })
            },
        )
    }

    /// Its value as text: lists and objects are written as JSON.
    ///
    /// # Errors
    /// As [`Template::evaluate`].
    pub fn render(&self, scope: &Scope) -> Result<String, ExpressionError> {
        self.evaluate(scope).map(into_text)
    }

    fn run(
        &self,
        variables: Vec<(String, Value)>,
        veil: Option<&Veil>,
    ) -> Result<Value, ExpressionError> {
        let context = JinjaValue::from_pairs(
            variables.into_iter().map(|(name, value)| (name, JinjaValue::from(Serde(value)))),
        );
        if let [Part::Value { source, program }] = self.0.parts.as_slice() {
            return value_of(source, program, &context);
        }
        let mut text = String::new();
        for part in &self.0.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Secret(name) => {
                    text.push_str(&veil.map(|veil| veil.stand_in(name)).unwrap_or_default());
                }
                Part::Value { source, program } => {
                    text.push_str(&into_text(value_of(source, program, &context)?));
                }
            }
            if text.len() > limits::MAX_TEMPLATE_OUTPUT_BYTES {
                return Err(TOO_LARGE);
            }
        }
        Ok(Value::String(text))
    }
}

const TOO_LARGE: ExpressionError = ExpressionError::TooLarge {
    what: "the result of the template",
    max_bytes: limits::MAX_TEMPLATE_OUTPUT_BYTES,
};

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Template").field(&self.source()).finish()
    }
}

fn value_of(
    source: &str,
    program: &minijinja::Expression<'static, 'static>,
    context: &JinjaValue,
) -> Result<Value, ExpressionError> {
    let value = program.eval(context.clone()).map_err(|error| evaluation(&error))?;
    if value.is_undefined() {
        return Err(ExpressionError::Undefined { part: shortened(source) });
    }
    // Written through a writer with an end, since a lazy value may be larger than what made it.
    let mut written = Bounded(Vec::new());
    if let Err(error) = serde_json::to_writer(&mut written, &value) {
        return Err(if error.is_io() {
            TOO_LARGE
        } else {
            ExpressionError::NotJson { message: shortened(error) }
        });
    }
    let value: Value = serde_json::from_slice(&written.0)
        .map_err(|error| ExpressionError::NotJson { message: shortened(error) })?;
    if nests_too_deep(&value) {
        return Err(ExpressionError::NotJson {
            message: format!("it nests deeper than {} levels", limits::MAX_JSON_DEPTH),
        });
    }
    Ok(value)
}

struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + data.len() > limits::MAX_TEMPLATE_OUTPUT_BYTES {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        self.0.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn into_text(value: Value) -> String {
    if let Value::String(text) = value { text } else { value.to_string() }
}

fn evaluation(error: &Error) -> ExpressionError {
    if error.kind() == ErrorKind::OutOfFuel {
        return ExpressionError::TooExpensive;
    }
    let mut message = error.kind().to_string();
    if let Some(detail) = error.detail() {
        let _ = write!(message, ": {detail}");
    }
    ExpressionError::Evaluation { message: shortened(message) }
}

/// The variable that only this module knows.
const SECRETS: &str = "secrets";

/// The secret that a part names by itself: `secrets.<name>` or `secrets["<name>"]`.
fn secret_reference(part: &str) -> Option<SecretName> {
    let after = part.trim().strip_prefix(SECRETS)?.trim_start();
    let name = match after.strip_prefix('.') {
        Some(name) => name.trim_start(),
        None => {
            let index = after.strip_prefix('[')?.strip_suffix(']')?.trim();
            let quoted = |quote| index.strip_prefix(quote)?.strip_suffix(quote);
            quoted('"').or_else(|| quoted('\''))?
        }
    };
    name.parse().ok()
}

enum Piece<'a> {
    Text(&'a str),
    Value(&'a str),
}

/// Cuts a text into what stands between `{{` and `}}` and what doesn't. As in Jinja, a `-` next to the brackets takes off the white
/// space on that side.
fn split(source: &str) -> Result<Vec<Piece<'_>>, ExpressionError> {
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    let (mut rest, mut from) = (source, 0);
    while let Some(at) = rest[from..].find('{').map(|at| from + at) {
        match rest[at + 1..].chars().next() {
            Some('%' | '#') => return Err(ExpressionError::Statement),
            Some('{') => {}
            Some(_) | None => {
                from = at + 1;
                continue;
            }
        }
        let inner = &rest[at + 2..];
        let end = end_of_value(inner).ok_or_else(|| ExpressionError::Syntax {
            message: "`{{` without its `}}`".to_owned(),
        })?;
        let (mut before, mut value, mut after) = (&rest[..at], &inner[..end], &inner[end + 2..]);
        if let Some(stripped) = value.strip_prefix('-') {
            (before, value) = (before.trim_end(), stripped);
        }
        if let Some(stripped) = value.strip_suffix('-') {
            (after, value) = (after.trim_start(), stripped);
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        pieces.push(Piece::Value(value));
        (rest, from) = (after, 0);
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

/// Where the `}}` stands that ends a value: outside strings, and not the end of an object inside it.
fn end_of_value(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut quote, mut escaped, mut open) = (None, false, 0_usize);
    for (at, byte) in bytes.iter().enumerate() {
        match (quote, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(end), byte) if end == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'{') => open += 1,
            (None, b'}') if open > 0 => open -= 1,
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            (None, _) => {}
        }
    }
    None
}

fn compile(text: &str) -> Result<minijinja::Expression<'static, 'static>, ExpressionError> {
    if text.len() > limits::MAX_EXPRESSION_BYTES {
        return Err(ExpressionError::TooLong { max_bytes: limits::MAX_EXPRESSION_BYTES });
    }
    check_depth(text, Language::Template)?;
    // Signs in strings count too: a bound that is a little too strict needs no second lexer.
    let growth = text.bytes().filter(|byte| matches!(byte, b'~' | b'+' | b'*')).count();
    if growth > limits::MAX_TEMPLATE_GROWTH {
        return Err(ExpressionError::TooManyParts {
            what: "`~`, `+` and `*` in one `{{ … }}`",
            max: limits::MAX_TEMPLATE_GROWTH,
        });
    }
    let source = text.trim().to_owned();
    panic::catch_unwind(|| ENGINE.compile_expression_owned(source))
        .unwrap_or_else(|_| Err(Error::from(ErrorKind::SyntaxError)))
        .map_err(|error| ExpressionError::Syntax {
            message: shortened(error.detail().map_or_else(
                || error.kind().to_string(),
                |detail| format!("syntax error: {detail}"),
            )),
        })
}

fn engine() -> Environment<'static> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(limits::TEMPLATE_FUEL));
    engine.set_recursion_limit(limits::TEMPLATE_RECURSION);
    engine.set_debug(false);
    // What can make much from little is left out, or bounded below.
    for filter in ["format", "indent", "pprint", "batch", "slice", "escape", "e", "safe", "groupby"]
    {
        engine.remove_filter(filter);
    }
    for global in ["debug", "namespace", "range", "dict"] {
        engine.remove_global(global);
    }
    engine.add_filter("replace", replace);
    engine.add_filter("join", join);
    engine.add_filter("tojson", to_json);
    engine.add_filter("urlencode", url_encode);
    engine
}

fn too_large() -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("a value is larger than {} bytes", limits::MAX_TEMPLATE_OUTPUT_BYTES),
    )
}

/// Every `from` in a text replaced by `to`.
fn replace(text: &str, from: &str, to: &str) -> Result<String, Error> {
    let found = if from.is_empty() { text.len() + 1 } else { text.matches(from).count() };
    let size = found.checked_mul(to.len()).and_then(|added| added.checked_add(text.len()));
    if size.is_none_or(|size| size > limits::MAX_TEMPLATE_OUTPUT_BYTES) {
        return Err(too_large());
    }
    Ok(text.replace(from, to))
}

/// The items of a list as one text.
fn join(list: &JinjaValue, separator: Option<&str>) -> Result<String, Error> {
    let mut text = String::new();
    for (index, item) in list.try_iter()?.enumerate() {
        if index > 0 {
            text.push_str(separator.unwrap_or_default());
        }
        let _ = write!(text, "{item}");
        if text.len() > limits::MAX_TEMPLATE_OUTPUT_BYTES {
            return Err(too_large());
        }
    }
    Ok(text)
}

/// A value as JSON text.
fn to_json(value: &JinjaValue) -> Result<String, Error> {
    let mut written = Bounded(Vec::new());
    serde_json::to_writer(&mut written, value).map_err(|_| too_large())?;
    String::from_utf8(written.0).map_err(|_| too_large())
}

/// A value as it may stand in a URL (RFC 3986: everything but letters, digits and `-._~` is escaped).
fn url_encode(value: &JinjaValue) -> Result<String, Error> {
    let text = value.to_string();
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        if encoded.len() > limits::MAX_TEMPLATE_OUTPUT_BYTES {
            return Err(too_large());
        }
    }
    Ok(encoded)
}

/// A JSON value whose strings are templates.
#[derive(Clone, Debug, PartialEq)]
pub enum TemplateValue {
    /// Nothing in it has to be evaluated.
    Constant(Value),
    /// A string with parts to evaluate.
    Template(Template),
    /// A list with something to evaluate in it.
    List(Vec<TemplateValue>),
    /// An object with something to evaluate in it.
    Object(Vec<(String, TemplateValue)>),
}

impl TemplateValue {
    /// A string.
    #[must_use]
    pub fn from_template(template: Template) -> Self {
        match template.constant() {
            Some(text) => Self::Constant(Value::from(text)),
            None => Self::Template(template),
        }
    }

    /// A list.
    pub(crate) fn list(items: Vec<Self>) -> Self {
        if items.iter().all(|item| matches!(item, Self::Constant(_))) {
            let constant = |item| match item {
                Self::Constant(value) => value,
                Self::Template(_) | Self::List(_) | Self::Object(_) => Value::Null,
            };
            return Self::Constant(items.into_iter().map(constant).collect());
        }
        Self::List(items)
    }

    /// An object.
    pub(crate) fn object(entries: Vec<(String, Self)>) -> Self {
        if entries.iter().all(|(_, value)| matches!(value, Self::Constant(_))) {
            let constant = |(name, value)| match value {
                Self::Constant(value) => (name, value),
                Self::Template(_) | Self::List(_) | Self::Object(_) => (name, Value::Null),
            };
            return Self::Constant(Value::Object(entries.into_iter().map(constant).collect()));
        }
        Self::Object(entries)
    }

    /// Its value.
    ///
    /// # Errors
    /// As [`Template::evaluate`], for the first string that fails.
    pub fn evaluate(&self, scope: &Scope) -> Result<Value, ExpressionError> {
        Ok(match self {
            Self::Constant(value) => value.clone(),
            Self::Template(template) => template.evaluate(scope)?,
            Self::List(items) => Value::Array(
                items.iter().map(|item| item.evaluate(scope)).collect::<Result<_, _>>()?,
            ),
            Self::Object(entries) => {
                let mut object = Map::new();
                for (name, value) in entries {
                    object.insert(name.clone(), value.evaluate(scope)?);
                }
                Value::Object(object)
            }
        })
    }

    /// Its value as text: lists and objects are written as JSON.
    ///
    /// # Errors
    /// As [`TemplateValue::evaluate`].
    pub fn render(&self, scope: &Scope) -> Result<String, ExpressionError> {
        self.evaluate(scope).map(into_text)
    }

    /// Whether it reads this variable.
    pub(crate) fn reads(&self, variable: &str) -> bool {
        match self {
            Self::Constant(_) => false,
            Self::Template(template) => template.reads(variable),
            Self::List(items) => items.iter().any(|item| item.reads(variable)),
            Self::Object(entries) => entries.iter().any(|(_, value)| value.reads(variable)),
        }
    }

    /// Adds the secrets that it names.
    pub(crate) fn collect_secrets(&self, names: &mut Vec<SecretName>) {
        match self {
            Self::Constant(_) => {}
            Self::Template(template) => names.extend(template.secrets().cloned()),
            Self::List(items) => items.iter().for_each(|item| item.collect_secrets(names)),
            Self::Object(entries) => {
                entries.iter().for_each(|(_, value)| value.collect_secrets(names));
            }
        }
    }

    /// Adds the ids of the nodes whose output it reads.
    pub(crate) fn collect_references(&self, ids: &mut Vec<String>) {
        match self {
            Self::Constant(_) => {}
            Self::Template(template) => {
                ids.extend(template.node_references().map(str::to_owned));
            }
            Self::List(items) => items.iter().for_each(|item| item.collect_references(ids)),
            Self::Object(entries) => {
                entries.iter().for_each(|(_, value)| value.collect_references(ids));
            }
        }
    }
}
