//! Expressions in CEL (Common Expression Language).
//!
//! CEL always ends, but nothing in it bounds how late: `a.map(x, b.map(y, x + y))` is quadratic, and a chain of `+` doubles its text at
//! each step. So [`weave`] wraps in a call to [`CHARGE`] whatever may repeat or grow: a condition or step of every macro, the elements of
//! list and map literals, the results of `+`. The call takes the size of the value off a budget and stops the evaluation when
//! it is spent. The name can't be written in CEL, so no source reaches the counter itself.

use std::{
    fmt, panic,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Value as CelValue,
    common::ast::{CallExpr, EntryExpr, Expr, operators},
    objects::{Key, Map as CelMap},
};
use serde_json::Value;

use super::{
    Around, ExpressionError, Language, References, Scope, check_depth, functions, nests_too_deep,
    node_references, shortened,
};
use crate::limits;

/// The standard functions and macros of CEL: a constant that takes code to make.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// Takes the size of its argument off the budget and gives the argument back.
const CHARGE: &str = "@charge";

/// How the budget says that it is spent, through an error that carries only text.
const SPENT: &str = "budget spent";

/// Names of types, which read like variables.
const TYPE_NAMES: [&str; 14] = [
    "bool",
    "bytes",
    "double",
    "dyn",
    "google",
    "int",
    "list",
    "map",
    "null_type",
    "optional",
    "optional_type",
    "string",
    "type",
    "uint",
];

/// A compiled CEL expression. Cheap to clone; equal when the source is equal.
#[derive(Clone)]
pub struct Expression(Arc<Compiled>);

struct Compiled {
    source: String,
    tree: IdedExpr,
    references: References,
}

impl Expression {
    /// Compiles a source.
    ///
    /// # Errors
    /// When it is too long, is not CEL, or nests too deep.
    pub fn parse(source: &str) -> Result<Self, ExpressionError> {
        if source.len() > limits::MAX_EXPRESSION_BYTES {
            return Err(ExpressionError::TooLong { max_bytes: limits::MAX_EXPRESSION_BYTES });
        }
        if source.trim().is_empty() {
            return Err(ExpressionError::Syntax {
                message: "an expression is required".to_owned(),
            });
        }
        check_depth(source, Language::Cel)?;
        // The grammar is generated code that is fed by strangers: whatever it does, a source is at worst not an expression.
        let parsed = panic::catch_unwind(|| STANDARD.parser().parse(source));
        let mut tree = match parsed {
            Ok(Ok(tree)) => tree,
            Ok(Err(errors)) => {
                return Err(ExpressionError::Syntax { message: shortened(errors) });
            }
            Err(_) => {
                return Err(ExpressionError::Syntax {
                    message: "this expression can't be read".to_owned(),
                });
            }
        };
        let mut survey = Survey::default();
        survey.visit(&tree, 0, 0)?;
        let nodes = node_references(source)?;
        weave(&mut tree);
        let references = References::new(survey.variables, nodes);
        Ok(Self(Arc::new(Compiled { source: source.to_owned(), tree, references })))
    }

    /// The source as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Ids of the nodes whose output it reads.
    pub fn node_references(&self) -> impl Iterator<Item = &str> {
        self.0.references.nodes.iter().map(String::as_str)
    }

    /// Whether it reads no variable but this one.
    pub(crate) fn reads_only(&self, variable: &str) -> bool {
        self.0.references.variables.iter().all(|name| name == variable)
    }

    /// Whether it reads this variable.
    pub(crate) fn reads(&self, variable: &str) -> bool {
        self.0.references.reads(variable)
    }

    /// Refuses a variable that nobody sets; some are set by the loops around.
    pub(crate) fn check_variables(&self, around: Around) -> Result<(), ExpressionError> {
        self.0.references.check(around)
    }

    /// Its value.
    ///
    /// # Errors
    /// When it reads what isn't there, its types don't fit, or it takes too much work or space.
    pub fn evaluate(&self, scope: &Scope) -> Result<Value, ExpressionError> {
        let variables = scope.read(&self.0.references)?;
        // A bug of the library in this one evaluation is an error of this one evaluation.
        panic::catch_unwind(panic::AssertUnwindSafe(|| self.run(variables))).unwrap_or_else(|_| {
            Err(ExpressionError::Evaluation {
                message: "this expression can't be evaluated".to_owned(),
            })
        })
    }

    /// Its value, which must be `true` or `false`: a condition that is something else is a mistake, not a no.
    ///
    /// # Errors
    /// As [`Expression::evaluate`], and when the value is not a boolean.
    pub fn evaluate_condition(&self, scope: &Scope) -> Result<bool, ExpressionError> {
        let value = self.evaluate(scope)?;
        value.as_bool().ok_or_else(|| ExpressionError::Evaluation {
            message: shortened(format_args!("a condition is true or false, found {value}")),
        })
    }

    fn run(&self, variables: Vec<(String, Value)>) -> Result<Value, ExpressionError> {
        let budget = Arc::new(AtomicU64::new(limits::MAX_EXPRESSION_COST));
        let mut context = Context::with_env(Arc::clone(&STANDARD));
        functions::add(&mut context, &budget);
        context
            .add_function(CHARGE, move |value: CelValue| charge(&budget, value))
            .expect("no standard function has this name");
        for (name, value) in variables {
            context.add_variable_from_value(name, to_cel(&value));
        }
        let value =
            CelValue::resolve(&self.0.tree, &context).map_err(|error| evaluation(&error))?;
        let value =
            value.json().map_err(|error| ExpressionError::NotJson { message: shortened(error) })?;
        if nests_too_deep(&value) {
            return Err(ExpressionError::NotJson {
                message: format!("it nests deeper than {} levels", limits::MAX_JSON_DEPTH),
            });
        }
        Ok(value)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source()).finish()
    }
}

fn evaluation(error: &ExecutionError) -> ExpressionError {
    if matches!(error, ExecutionError::FunctionError { message, .. } if message == SPENT) {
        return ExpressionError::TooExpensive;
    }
    ExpressionError::Evaluation { message: shortened(error) }
}

/// Looks over a tree for what it reads and how deep it is.
#[derive(Default)]
struct Survey {
    variables: Vec<String>,
    /// Names that macros around the present place give to their items.
    bound: Vec<String>,
}

impl Survey {
    fn visit(
        &mut self,
        tree: &IdedExpr,
        depth: usize,
        macros: usize,
    ) -> Result<(), ExpressionError> {
        // What was counted in the source is at most this deep once macros are expanded; evaluation recurses over it.
        if depth > 2 * limits::MAX_EXPRESSION_STEPS {
            return Err(ExpressionError::TooDeep { max: limits::MAX_EXPRESSION_STEPS });
        }
        let below = depth + 1;
        match &tree.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.visit(&select.operand, below, macros)?,
            Expr::Call(call) => {
                for part in call.target.as_deref().into_iter().chain(&call.args) {
                    self.visit(part, below, macros)?;
                }
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.visit(element, below, macros)?;
                }
            }
            Expr::Map(map) => self.visit_entries(&map.entries, below, macros)?,
            Expr::Struct(structure) => self.visit_entries(&structure.entries, below, macros)?,
            Expr::Comprehension(comprehension) => {
                self.visit(&comprehension.iter_range, below, macros)?;
                if macros >= limits::MAX_MACRO_NESTING {
                    return Err(ExpressionError::MacrosTooDeep { max: limits::MAX_MACRO_NESTING });
                }
                let outer = self.bound.len();
                self.bound.push(comprehension.iter_var.clone());
                self.bound.extend(comprehension.iter_var2.clone());
                self.bound.push(comprehension.accu_var.clone());
                for part in [
                    &comprehension.accu_init,
                    &comprehension.loop_cond,
                    &comprehension.loop_step,
                    &comprehension.result,
                ] {
                    self.visit(part, below, macros + 1)?;
                }
                self.bound.truncate(outer);
            }
        }
        Ok(())
    }

    fn visit_entries(
        &mut self,
        entries: &[cel::common::ast::IdedEntryExpr],
        depth: usize,
        macros: usize,
    ) -> Result<(), ExpressionError> {
        for entry in entries {
            match &entry.expr {
                EntryExpr::StructField(field) => self.visit(&field.value, depth, macros)?,
                EntryExpr::MapEntry(entry) => {
                    self.visit(&entry.key, depth, macros)?;
                    self.visit(&entry.value, depth, macros)?;
                }
            }
        }
        Ok(())
    }

    fn name(&mut self, name: &str) {
        let plain = name.trim_start_matches('.');
        if !self.bound.iter().any(|bound| bound == plain) && !TYPE_NAMES.contains(&plain) {
            self.variables.push(plain.to_owned());
        }
    }
}

/// Puts the counter wherever an evaluation repeats or grows.
fn weave(tree: &mut IdedExpr) {
    match &mut tree.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => {}
        Expr::Select(select) => weave(&mut select.operand),
        Expr::Call(call) => {
            call.target.as_deref_mut().into_iter().chain(&mut call.args).for_each(weave);
            if call.func_name == operators::ADD {
                wrap(tree);
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(|element| {
            weave(element);
            wrap(element);
        }),
        Expr::Map(map) => map.entries.iter_mut().for_each(weave_entry),
        Expr::Struct(structure) => structure.entries.iter_mut().for_each(weave_entry),
        Expr::Comprehension(comprehension) => {
            weave(&mut comprehension.iter_range);
            weave(&mut comprehension.accu_init);
            weave(&mut comprehension.result);
            weave_step(&mut comprehension.loop_step, &comprehension.accu_var);
            // A constant condition marks the loops that only append, which the library runs without asking it.
            if !matches!(comprehension.loop_cond.expr, Expr::Literal(_)) {
                weave(&mut comprehension.loop_cond);
                wrap(&mut comprehension.loop_cond);
            }
        }
    }
}

fn weave_entry(entry: &mut cel::common::ast::IdedEntryExpr) {
    match &mut entry.expr {
        EntryExpr::StructField(field) => {
            weave(&mut field.value);
            wrap(&mut field.value);
        }
        EntryExpr::MapEntry(entry) => {
            weave(&mut entry.key);
            wrap(&mut entry.key);
            weave(&mut entry.value);
            wrap(&mut entry.value);
        }
    }
}

/// The step of a macro keeps its outer shape, by which the library knows to append in place; what it computes is counted.
fn weave_step(step: &mut IdedExpr, accumulator: &str) {
    let is_accumulator =
        |tree: &IdedExpr| matches!(&tree.expr, Expr::Ident(name) if name == accumulator);
    match &mut step.expr {
        Expr::Call(call) if call.func_name == operators::CONDITIONAL && call.args.len() == 3 => {
            weave(&mut call.args[0]);
            wrap(&mut call.args[0]);
            weave_step(&mut call.args[1], accumulator);
            weave_step(&mut call.args[2], accumulator);
        }
        Expr::Call(call)
            if call.func_name == operators::ADD
                && call.args.first().is_some_and(is_accumulator) =>
        {
            call.args.iter_mut().skip(1).for_each(weave);
        }
        Expr::Call(call) if call.args.first().is_some_and(is_accumulator) => {
            for argument in call.args.iter_mut().skip(1) {
                weave(argument);
                wrap(argument);
            }
        }
        Expr::Unspecified
        | Expr::Literal(_)
        | Expr::Ident(_)
        | Expr::Select(_)
        | Expr::Call(_)
        | Expr::List(_)
        | Expr::Map(_)
        | Expr::Struct(_)
        | Expr::Comprehension(_) => weave(step),
    }
}

fn wrap(tree: &mut IdedExpr) {
    let id = tree.id;
    let inner = std::mem::take(tree);
    let call = CallExpr { func_name: CHARGE.to_owned(), target: None, args: vec![inner] };
    *tree = IdedExpr { id, expr: Expr::Call(call) };
}

fn charge(budget: &AtomicU64, value: CelValue) -> Result<CelValue, ExecutionError> {
    spend(budget, size_of(&value).saturating_add(1))?;
    Ok(value)
}

/// Takes a cost off the budget.
pub(super) fn spend(budget: &AtomicU64, cost: u64) -> Result<(), ExecutionError> {
    let spend = |left: u64| left.checked_sub(cost);
    match budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend) {
        Ok(_) => Ok(()),
        Err(_) => {
            // Whatever swallows the error (`false && …` does) goes on with an empty budget and gets it again.
            budget.store(0, Ordering::Relaxed);
            Err(ExecutionError::function_error(CHARGE, SPENT))
        }
    }
}

/// About how many bytes a value takes.
pub(super) fn size_of(value: &CelValue) -> u64 {
    let bytes = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    match value {
        CelValue::String(text) => bytes(text.len()),
        CelValue::Bytes(data) => bytes(data.len()),
        CelValue::List(items) => {
            items.iter().fold(8, |sum: u64, item| sum.saturating_add(size_of(item)))
        }
        CelValue::Map(map) => map.map.iter().fold(8, |sum: u64, (key, value)| {
            let key = match key {
                Key::String(text) => bytes(text.len()),
                Key::Int(_) | Key::Uint(_) | Key::Bool(_) => 8,
            };
            sum.saturating_add(key).saturating_add(size_of(value))
        }),
        CelValue::Function(..)
        | CelValue::Int(_)
        | CelValue::UInt(_)
        | CelValue::Float(_)
        | CelValue::Bool(_)
        | CelValue::Duration(_)
        | CelValue::Timestamp(_)
        | CelValue::Opaque(_)
        | CelValue::Struct(_)
        | CelValue::Null => 8,
    }
}

/// Whole numbers become `int` wherever they fit, because CEL's `int` and `uint` don't mix and people write `input.n + 1`.
fn to_cel(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(value) => CelValue::Bool(*value),
        Value::Number(number) => number
            .as_i64()
            .map(CelValue::Int)
            .or_else(|| number.as_u64().map(CelValue::UInt))
            .unwrap_or_else(|| CelValue::Float(number.as_f64().unwrap_or(f64::NAN))),
        Value::String(text) => CelValue::String(Arc::new(text.clone())),
        Value::Array(items) => CelValue::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(entries) => {
            let entries = entries.iter();
            let map =
                entries.map(|(name, value)| (Key::String(Arc::new(name.clone())), to_cel(value)));
            CelValue::Map(CelMap { map: Arc::new(map.collect()) })
        }
    }
}
