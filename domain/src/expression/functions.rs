//! The functions beside the standard ones of CEL, because what steps print is text and has to become a list first.
//!
//! They have the names and meanings of CEL's extension libraries (`ext.Strings`, `ext.Lists`). What they make is paid for from
//! the budget of the evaluation before it is made, see [`super::cel`].

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicU64},
};

use cel::{Context, ExecutionError, Value as CelValue, extractors::This};

use super::cel::{size_of, spend};

/// About how many bytes a text in a list takes beside its letters.
const PART_BYTES: u64 = 24;

/// Adds them.
pub(super) fn add(context: &mut Context<'_, '_>, budget: &Arc<AtomicU64>) {
    const FREE: &str = "no standard function has this name";
    type Text = This<Arc<String>>;
    let budget = || Arc::clone(budget);
    let (of_split, of_join, of_distinct) = (budget(), budget(), budget());
    let (of_trim, of_lower, of_upper) = (budget(), budget(), budget());
    let split = move |This(text): Text, separator: Arc<String>| split(&of_split, &text, &separator);
    let join =
        move |This(list): This<CelValue>, separator: Arc<String>| join(&of_join, &list, &separator);
    let distinct = move |This(list): This<CelValue>| distinct(&of_distinct, &list);
    let trim = move |This(text): Text| text_of(&of_trim, text.trim());
    let lower = move |This(text): Text| text_of(&of_lower, &text.to_ascii_lowercase());
    let upper = move |This(text): Text| text_of(&of_upper, &text.to_ascii_uppercase());
    context.add_function("split", split).expect(FREE);
    context.add_function("join", join).expect(FREE);
    context.add_function("distinct", distinct).expect(FREE);
    context.add_function("trim", trim).expect(FREE);
    context.add_function("lowerAscii", lower).expect(FREE);
    context.add_function("upperAscii", upper).expect(FREE);
}

fn text_of(budget: &AtomicU64, text: &str) -> Result<CelValue, ExecutionError> {
    spend(budget, bytes(text.len()).saturating_add(1))?;
    Ok(CelValue::String(Arc::new(text.to_owned())))
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// `list.join(separator)`: a list of texts as one.
fn join(budget: &AtomicU64, list: &CelValue, separator: &str) -> Result<CelValue, ExecutionError> {
    let not_texts = || ExecutionError::function_error("join", "it is not a list of texts");
    let CelValue::List(items) = list else { return Err(not_texts()) };
    let between = bytes(separator.len()).saturating_mul(bytes(items.len()));
    spend(budget, size_of(list).saturating_add(between))?;
    let texts = items.iter().map(|item| {
        let CelValue::String(text) = item else { return Err(not_texts()) };
        Ok(text.as_str())
    });
    let texts: Vec<&str> = texts.collect::<Result<_, _>>()?;
    Ok(CelValue::String(Arc::new(texts.join(separator))))
}

/// `text.split(separator)`: the parts between separators. An empty separator is refused: it would make a list out of letters.
fn split(budget: &AtomicU64, text: &str, separator: &str) -> Result<CelValue, ExecutionError> {
    if separator.is_empty() {
        return Err(ExecutionError::function_error("split", "the separator is empty"));
    }
    spend(budget, bytes(text.len()))?;
    let parts = bytes(text.matches(separator).count()).saturating_add(1);
    spend(budget, parts.saturating_mul(PART_BYTES))?;
    let parts = text.split(separator).map(|part| CelValue::String(Arc::new(part.to_owned())));
    Ok(CelValue::List(Arc::new(parts.collect())))
}

/// `list.distinct()`: each value where it comes first.
fn distinct(budget: &AtomicU64, list: &CelValue) -> Result<CelValue, ExecutionError> {
    let CelValue::List(items) = list else {
        return Err(ExecutionError::function_error("distinct", "it is not a list"));
    };
    spend(budget, size_of(list).saturating_add(bytes(items.len()).saturating_mul(PART_BYTES)))?;
    let mut seen = HashSet::with_capacity(items.len());
    let mut kept = Vec::new();
    for item in items.iter() {
        let text = item
            .json()
            .map_err(|error| ExecutionError::function_error("distinct", error.to_string()))?;
        if seen.insert(text.to_string()) {
            kept.push(item.clone());
        }
    }
    Ok(CelValue::List(Arc::new(kept)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Expression, ExpressionError, Scope};
    use crate::limits;

    fn evaluate(source: &str, input: Value) -> Result<Value, ExpressionError> {
        Expression::parse(source)?.evaluate(&Scope::of_input(input.into()))
    }

    #[test]
    fn text_becomes_a_list_and_a_list_text() {
        let table = [
            ("'a,b,,c'.split(',')", json!(["a", "b", "", "c"])),
            ("input.text.split('\\n').filter(l, l != '')", json!(["one", "two"])),
            ("['x', 'y'].join('-')", json!("x-y")),
            ("[1, 'a', 1, 'a', [2], [2]].distinct()", json!([1, "a", [2]])),
            ("'  A b '.trim().lowerAscii()", json!("a b")),
            ("'ß é x'.upperAscii()", json!("ß é X")),
        ];
        for (source, expected) in table {
            assert_eq!(evaluate(source, json!({ "text": "one\ntwo\n" })), Ok(expected), "{source}");
        }
        for source in ["'a'.split('')", "[1].join(',')", "'a'.distinct()", "1.trim()"] {
            assert!(evaluate(source, json!({})).is_err(), "{source}");
        }
    }

    #[test]
    fn what_they_make_is_paid_for() {
        let text = "x,".repeat(usize::try_from(limits::MAX_EXPRESSION_COST / 4).unwrap());
        for source in ["input.text.split(',')", "input.few.join(input.text)"] {
            let few: Vec<&str> = vec!["a"; 20];
            let evaluated = evaluate(source, json!({ "text": text, "few": few }));
            assert_eq!(evaluated, Err(ExpressionError::TooExpensive), "{source}");
        }
    }
}
