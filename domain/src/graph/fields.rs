//! Reads a definition's JSON field by field and keeps every problem it meets, where serde would stop at the first.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::problem::{Problem, ProblemCode};
use crate::{
    expression::{Around, Compiler, Expression, ExpressionError, Template, TemplateValue},
    limits,
};

/// Where in a definition something stands: a JSON Pointer, and the node it belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) node_id: Option<String>,
    pub(crate) pointer: String,
}

impl Place {
    /// The place of a field below this one.
    pub(crate) fn field(&self, name: &str) -> Self {
        let escaped = name.replace('~', "~0").replace('/', "~1");
        Self { node_id: self.node_id.clone(), pointer: format!("{}/{escaped}", self.pointer) }
    }

    /// The place of an item below this one.
    pub(crate) fn item(&self, index: usize) -> Self {
        Self { node_id: self.node_id.clone(), pointer: format!("{}/{index}", self.pointer) }
    }
}

/// What one parse of a definition shares: the problems so far, the compiled programs, and how much was read.
pub(crate) struct Reader {
    pub(crate) problems: Vec<Problem>,
    pub(crate) compiler: Compiler,
    pub(crate) nodes: usize,
    pub(crate) connections: usize,
    /// Nodes so far that name their undo.
    pub(crate) undoes: usize,
    /// Ids of nodes so far: unique in the whole definition, so that `nodes.<id>` means one thing.
    pub(crate) ids: HashSet<String>,
    /// Loops around what is being read.
    pub(crate) loop_depth: usize,
    /// Those of them that set `item`.
    pub(crate) each_depth: usize,
    /// Those of them that set `last`.
    pub(crate) while_depth: usize,
    /// Whether what is being read may name secrets.
    allows_secrets: bool,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self {
            problems: Vec::new(),
            compiler: Compiler::new(),
            nodes: 0,
            connections: 0,
            undoes: 0,
            ids: HashSet::new(),
            loop_depth: 0,
            each_depth: 0,
            while_depth: 0,
            allows_secrets: false,
        }
    }

    /// Reads a field that the kind's schema marks as one that may name secrets.
    pub(crate) fn with_secrets<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        self.allows_secrets = true;
        let value = read(self);
        self.allows_secrets = false;
        value
    }

    /// Notes a problem, up to the bound on how many anybody would read.
    pub(crate) fn report(&mut self, place: &Place, code: ProblemCode, reason: impl Into<String>) {
        if self.problems.len() < limits::MAX_PROBLEMS {
            self.problems.push(Problem {
                node_id: place.node_id.clone(),
                field: place.pointer.clone(),
                code,
                reason: reason.into(),
            });
        }
    }

    /// Which loops' variables a program here may read.
    fn around(&self) -> Around {
        Around { each: self.each_depth > 0, repeat: self.while_depth > 0 }
    }

    /// Compiles a CEL expression; none after a problem.
    pub(crate) fn expression(&mut self, value: &Value, place: &Place) -> Option<Expression> {
        let Some(source) = value.as_str() else {
            self.wrong_type(place, "a CEL expression (a string)", value);
            return None;
        };
        let compiled = self.compiler.expression(source);
        let around = self.around();
        match compiled.and_then(|compiled| compiled.check_variables(around).map(|()| compiled)) {
            Ok(expression) => Some(expression),
            Err(error) => {
                self.unsound(place, &error);
                None
            }
        }
    }

    /// Compiles a string that is a template; none after a problem.
    pub(crate) fn template(&mut self, value: &Value, place: &Place) -> Option<Template> {
        let Some(source) = value.as_str() else {
            self.wrong_type(place, "a string", value);
            return None;
        };
        let compiled = self.compiler.template(source);
        let around = self.around();
        match compiled.and_then(|compiled| compiled.check_variables(around).map(|()| compiled)) {
            Ok(template) if !self.allows_secrets && template.secrets().next().is_some() => {
                self.unsound(place, &ExpressionError::SecretMisplaced);
                None
            }
            Ok(template) => Some(template),
            Err(error) => {
                self.unsound(place, &error);
                None
            }
        }
    }

    /// Compiles every string inside a JSON value.
    pub(crate) fn template_value(&mut self, value: &Value, place: &Place) -> TemplateValue {
        match value {
            Value::String(_) => self.template(value, place).map_or_else(
                || TemplateValue::Constant(value.clone()),
                TemplateValue::from_template,
            ),
            Value::Array(items) => TemplateValue::list(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.template_value(item, &place.item(index)))
                    .collect(),
            ),
            Value::Object(entries) => TemplateValue::object(
                entries
                    .iter()
                    .map(|(name, value)| {
                        (name.clone(), self.template_value(value, &place.field(name)))
                    })
                    .collect(),
            ),
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                TemplateValue::Constant(value.clone())
            }
        }
    }

    fn unsound(&mut self, place: &Place, error: &ExpressionError) {
        let code = match error {
            ExpressionError::TooLong { .. } => ProblemCode::ExpressionTooLong,
            ExpressionError::TooDeep { .. } | ExpressionError::MacrosTooDeep { .. } => {
                ProblemCode::ExpressionTooDeep
            }
            ExpressionError::UnknownVariable { .. } => ProblemCode::UnknownVariable,
            ExpressionError::SecretNotAlone | ExpressionError::SecretMisplaced => {
                ProblemCode::SecretMisplaced
            }
            ExpressionError::Syntax { .. }
            | ExpressionError::Statement
            | ExpressionError::TooManyParts { .. }
            | ExpressionError::Evaluation { .. }
            | ExpressionError::Undefined { .. }
            | ExpressionError::TooExpensive
            | ExpressionError::TooLarge { .. }
            | ExpressionError::NotJson { .. } => ProblemCode::ExpressionInvalid,
        };
        self.report(place, code, error.to_string());
    }

    pub(crate) fn wrong_type(&mut self, place: &Place, expected: &str, found: &Value) {
        let reason = format!("expected {expected}, found {}", kind_of(found));
        self.report(place, ProblemCode::WrongType, reason);
    }
}

/// A JSON object that is being read: what was not asked for at the end is an unknown field.
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    pub(crate) place: Place,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Opens an object; none, with a problem, when the value is not one.
    pub(crate) fn open(value: &'a Value, place: Place, reader: &mut Reader) -> Option<Self> {
        let Value::Object(object) = value else {
            reader.wrong_type(&place, "an object", value);
            return None;
        };
        Some(Self { object, place, known: Vec::with_capacity(8) })
    }

    /// The place of a field.
    pub(crate) fn place_of(&self, name: &str) -> Place {
        self.place.field(name)
    }

    /// A field that may be left out; `null` is the same as leaving it out.
    pub(crate) fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there, be it `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// A field that must be there.
    pub(crate) fn required(
        &mut self,
        name: &'static str,
        reader: &mut Reader,
    ) -> Option<&'a Value> {
        let value = self.get(name);
        if value.is_none() {
            reader.report(
                &self.place_of(name),
                ProblemCode::Required,
                format!("`{name}` is required"),
            );
        }
        value
    }

    /// A string with a bounded number of characters.
    pub(crate) fn string(
        &mut self,
        name: &'static str,
        max_chars: usize,
        reader: &mut Reader,
    ) -> Option<&'a str> {
        let value = self.get(name)?;
        let Some(text) = value.as_str() else {
            reader.wrong_type(&self.place_of(name), "a string", value);
            return None;
        };
        if text.chars().count() > max_chars {
            let reason = format!("at most {max_chars} characters");
            reader.report(&self.place_of(name), ProblemCode::OutOfRange, reason);
            return None;
        }
        Some(text)
    }

    /// A whole number within a range.
    pub(crate) fn integer(
        &mut self,
        name: &'static str,
        range: std::ops::RangeInclusive<u64>,
        reader: &mut Reader,
    ) -> Option<u64> {
        let value = self.get(name)?;
        read_integer(value, &self.place_of(name), range, reader)
    }

    /// A number within a range.
    pub(crate) fn number(
        &mut self,
        name: &'static str,
        range: std::ops::RangeInclusive<f64>,
        reader: &mut Reader,
    ) -> Option<f64> {
        let value = self.get(name)?;
        let place = self.place_of(name);
        match value.as_f64() {
            Some(number) if range.contains(&number) => Some(number),
            Some(_) => {
                let reason = format!("expected a number from {} to {}", range.start(), range.end());
                reader.report(&place, ProblemCode::OutOfRange, reason);
                None
            }
            None => {
                reader.wrong_type(&place, "a number", value);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, name: &'static str, reader: &mut Reader) -> Option<bool> {
        let value = self.get(name)?;
        if value.as_bool().is_none() {
            reader.wrong_type(&self.place_of(name), "true or false", value);
        }
        value.as_bool()
    }

    /// One of a closed set of words.
    pub(crate) fn one_of<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&str, T)],
        reader: &mut Reader,
    ) -> Option<T> {
        let value = self.get(name)?;
        let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let reason = format!("expected one of {}", known.join(", "));
            reader.report(&self.place_of(name), ProblemCode::UnknownValue, reason);
        }
        found.map(|(_, value)| *value)
    }

    /// An array with a bounded number of items.
    pub(crate) fn array(
        &mut self,
        name: &'static str,
        max: usize,
        reader: &mut Reader,
    ) -> Option<&'a [Value]> {
        let value = self.get(name)?;
        let Value::Array(items) = value else {
            reader.wrong_type(&self.place_of(name), "an array", value);
            return None;
        };
        if items.len() > max {
            let reason = format!("at most {max} items");
            reader.report(&self.place_of(name), ProblemCode::OutOfRange, reason);
            return None;
        }
        Some(items)
    }

    /// A CEL expression that must be there.
    pub(crate) fn expression(
        &mut self,
        name: &'static str,
        reader: &mut Reader,
    ) -> Option<Expression> {
        let value = self.required(name, reader)?;
        reader.expression(value, &self.place_of(name))
    }

    /// A template that may be left out.
    pub(crate) fn template(&mut self, name: &'static str, reader: &mut Reader) -> Option<Template> {
        let value = self.get(name)?;
        reader.template(value, &self.place_of(name))
    }

    /// An object of templates; numbers and booleans stand for their text. Empty when left out.
    pub(crate) fn templates_by_name(
        &mut self,
        name: &'static str,
        reader: &mut Reader,
    ) -> Vec<(String, TemplateValue)> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let place = self.place_of(name);
        let Some(entries) = value.as_object() else {
            reader.wrong_type(&place, "an object of strings", value);
            return Vec::new();
        };
        if entries.len() > limits::MAX_ENTRIES {
            let reason = format!("at most {} entries", limits::MAX_ENTRIES);
            reader.report(&place, ProblemCode::OutOfRange, reason);
            return Vec::new();
        }
        let mut templates = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let place = place.field(key);
            if value.is_array() || value.is_object() || value.is_null() {
                reader.wrong_type(&place, "a string", value);
            } else {
                templates.push((key.clone(), reader.template_value(value, &place)));
            }
        }
        templates
    }

    /// Reports every field that nothing asked for.
    pub(crate) fn finish(self, reader: &mut Reader) {
        for name in self.object.keys() {
            if !self.known.contains(&name.as_str()) {
                let reason = format!("unknown field `{name}`; known are {}", self.known.join(", "));
                reader.report(&self.place_of(name), ProblemCode::UnknownField, reason);
            }
        }
    }
}

/// A whole number within a range; none after a problem.
pub(crate) fn read_integer(
    value: &Value,
    place: &Place,
    range: std::ops::RangeInclusive<u64>,
    reader: &mut Reader,
) -> Option<u64> {
    let (min, max) = (range.start(), range.end());
    match value.as_u64() {
        Some(number) if range.contains(&number) => Some(number),
        None if !value.is_number() => {
            reader.wrong_type(place, "a whole number", value);
            None
        }
        Some(_) | None => {
            let reason = format!("expected a whole number from {min} to {max}, found {value}");
            reader.report(place, ProblemCode::OutOfRange, reason);
            None
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
