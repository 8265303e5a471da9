//! What expressions and templates give, refuse, and survive.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::json::Json;

fn scope() -> Scope {
    Scope {
        input: json!({
            "name": "Ada",
            "n": 7,
            "big": 9_007_199_254_740_993_i64,
            "huge": u64::MAX,
            "half": 0.5,
            "list": [1, 2, 3],
            "text": "a \"quoted\" word",
            "none": null,
        })
        .into(),
        vars: [("count".to_owned(), Json::from(json!(2)))].into(),
        nodes: [
            ("fetch".to_owned(), Json::from(json!({ "status": 200, "items": ["a", "b"] }))),
            ("my-node".to_owned(), Json::from(json!("ok"))),
        ]
        .into(),
        execution: json!({ "id": "e-1" }).into(),
        workflow: json!({ "name": "Nightly" }).into(),
        env: [("REGION".to_owned(), "eu".to_owned())].into(),
        item: Some(json!({ "id": 5 }).into()),
        last: None,
        index: Some(3),
        event: None,
        veil: None,
    }
}

fn evaluate(source: &str) -> Result<Value, ExpressionError> {
    Expression::parse(source)?.evaluate(&scope())
}

fn render(source: &str) -> Result<Value, ExpressionError> {
    Template::parse(source)?.evaluate(&scope())
}

#[test]
fn expressions_have_values() {
    let table = [
        ("1 + 1", json!(2)),
        ("input.n + 1", json!(8)),
        ("input.big", json!(9_007_199_254_740_993_i64)),
        ("input.huge", json!(u64::MAX)),
        ("input.half * 2.0", json!(1.0)),
        ("input.name + '!'", json!("Ada!")),
        ("input.none == null", json!(true)),
        ("vars.count * 2", json!(4)),
        ("nodes.fetch.output.status == 200", json!(true)),
        ("nodes['my-node'].output", json!("ok")),
        ("nodes[\"fetch\"].output.items[1]", json!("b")),
        ("execution.id + workflow.name + env.REGION", json!("e-1Nightlyeu")),
        ("item.id + index", json!(8)),
        ("input.list.map(x, x * x)", json!([1, 4, 9])),
        ("input.list.filter(x, x > 1)", json!([2, 3])),
        ("input.list.filter(x, x > 1).map(x, x + 1)", json!([3, 4])),
        ("input.list.map(x, x > 1, x * 10)", json!([20, 30])),
        ("input.list.all(x, x > 0)", json!(true)),
        ("input.list.exists(x, x == 2)", json!(true)),
        ("input.list.exists_one(x, x == 2)", json!(true)),
        ("[1, 2].map(x, [3, 4].map(y, x * y))", json!([[3, 4], [6, 8]])),
        ("has(input.name) && !has(input.other)", json!(true)),
        ("has(nodes.other) ? 1 : 2", json!(2)),
        ("{'a': input.n, 'b': [input.name]}", json!({ "a": 7, "b": ["Ada"] })),
        ("size(input.list) > 2 ? 'many' : 'few'", json!("many")),
        ("'x'.matches('^[a-z]$')", json!(true)),
        ("type(input.n) == int", json!(true)),
        ("string(input.n)", json!("7")),
        ("'a.nodes'", json!("a.nodes")),
    ];
    for (source, expected) in table {
        assert_eq!(evaluate(source), Ok(expected), "{source}");
    }
}

/// With an engine that goes back and tries again, each of these takes longer than the world is old.
#[test]
fn no_regular_expression_takes_long() {
    let text = format!("'{}!'", "a".repeat(1_000));
    for pattern in ["^(a+)+$", "^(a|a)*$", "^(a|aa)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", "(.*a){50}b"]
    {
        let source = format!("{text}.matches('{pattern}')");
        assert_eq!(evaluate(&source), Ok(json!(false)), "{pattern}");
    }
    // One that is large once it is written out is refused and not built.
    let refused = evaluate("'a'.matches('((a{1000}){1000}){1000}')");
    assert!(matches!(refused, Err(ExpressionError::Evaluation { .. })), "{refused:?}");
}

#[test]
fn expressions_that_are_not_are_refused_when_saved() {
    let long = format!("'{}'", "x".repeat(limits::MAX_EXPRESSION_BYTES));
    for source in
        ["", "  ", "1 +", "a b", "input.", "'open", "input.list.map(", "@charge(1)", "1;2"]
    {
        let refused = Expression::parse(source);
        assert!(matches!(refused, Err(ExpressionError::Syntax { .. })), "{source}: {refused:?}");
    }
    assert!(matches!(Expression::parse(&long), Err(ExpressionError::TooLong { .. })));
    for source in ["nodes", "size(nodes)", "nodes[input.name]", "nodes.map(x, x)"] {
        let refused = Expression::parse(source);
        assert!(matches!(refused, Err(ExpressionError::Syntax { .. })), "{source}: {refused:?}");
    }
}

#[test]
fn depth_is_bounded_before_it_can_harm_a_stack() {
    let sources = [
        format!("{}1{}", "(".repeat(500), ")".repeat(500)),
        format!("{}1{}", "[".repeat(500), "]".repeat(500)),
        format!("{}true", "!".repeat(2_000)),
        format!("{}1", "-".repeat(2_000)),
        format!("1{}", "+1".repeat(2_000)),
        format!("a{}", ".a".repeat(2_000)),
        format!("true{}", "?true:false".repeat(300)),
        format!("a{}", "[0]".repeat(1_300)),
        format!("{}1", "{1:".repeat(1_000)),
        format!("a{}", ".f()".repeat(1_000)),
        // What looks like a string and is none does not hide what follows.
        format!("r'\\'{}", "+1".repeat(1_500)),
        format!("R\"\\\"{}", "+1".repeat(1_500)),
        format!("'''a'b'''{}", "+''".repeat(1_000)),
        format!("// it's\n1{}", "+1".repeat(1_500)),
        format!("'\\\\'{}", "+1".repeat(1_500)),
    ];
    for source in sources {
        let refused = Expression::parse(&source);
        assert!(
            matches!(
                refused,
                Err(ExpressionError::TooDeep { .. } | ExpressionError::Syntax { .. })
            ),
            "{source:.20}: {refused:?}"
        );
    }
    // The deepest that are accepted are evaluated on a stack that is smaller than any thread's of ours.
    let deepest = [
        format!("1{}", "+1".repeat(250)),
        format!("{}1{}", "(1+".repeat(60), ")".repeat(60)),
        format!("{}1{}", "[".repeat(62), "]".repeat(62)),
        format!("input{}", ".a".repeat(250)),
        format!("{}true", "!".repeat(250)),
        format!("{}1{}", "(1+1+1+".repeat(60), ")".repeat(60)),
    ];
    for source in deepest {
        let run = std::thread::Builder::new().stack_size(1024 * 1024).spawn(move || {
            if let Ok(expression) = Expression::parse(&source) {
                let _ = expression.evaluate(&scope());
            }
        });
        run.expect("starts").join().expect("does not overflow");
    }
    let templates = [
        format!("{}1{}", "(".repeat(2_000), ")".repeat(2_000)),
        format!("{}1{}", "[".repeat(2_000), "]".repeat(2_000)),
        format!("{}1{}", "{1:".repeat(1_300), "}".repeat(1_300)),
        format!("{}1", "not ".repeat(1_000)),
        format!("{}1", "-".repeat(4_000)),
        format!("'x'{}", "|upper".repeat(680)),
        format!("input{}", ".a".repeat(2_000)),
        format!("input{}", "[0]".repeat(1_300)),
        format!("input{}", "()".repeat(2_000)),
        format!("1{}", " if 1 else 1".repeat(330)),
        format!("1{}", "-1".repeat(2_000)),
        format!("1{}", " and 1".repeat(680)),
        format!("1{}", "==1".repeat(1_300)),
        format!("1{}", " is odd".repeat(580)),
    ];
    for source in templates {
        let run = std::thread::Builder::new().stack_size(1024 * 1024).spawn(move || {
            if let Ok(template) = Template::parse(&format!("{{{{ {source} }}}}")) {
                let _ = template.evaluate(&scope());
            }
        });
        run.expect("starts").join().expect("does not overflow");
    }
    let usual = vec!["input.n == 7"; 20].join(" && ");
    assert_eq!(evaluate(&usual), Ok(json!(true)));
}

#[test]
fn what_stands_in_a_string_is_no_depth() {
    let signs = "(.+-*[{".repeat(100);
    let open = format!("'{signs}' + \"{signs}\" + r'{signs}\\' + '''{signs}'{signs}''' == ''");
    assert_eq!(evaluate(&open), Ok(json!(false)));
    assert_eq!(evaluate("1 // it's ((((\n + 1"), Ok(json!(2)));
    let text = format!("{{{{ '{signs}' == \"{signs}\" }}}}");
    let short = text.replace(['+', '*'], "");
    assert_eq!(render(&short), Ok(json!(true)));
}

#[test]
fn macros_nest_twice_and_no_deeper() {
    let two = "[1].map(x, [1].map(y, x + y))";
    let three = "[1].map(x, [1].map(y, [1].map(z, x + y + z)))";
    let hidden = "[1].exists(x, [1].all(y, [1].filter(z, z > 0) == [x]))";
    assert_eq!(evaluate(two), Ok(json!([[2]])));
    for source in [three, hidden] {
        let refused = Expression::parse(source);
        assert!(matches!(refused, Err(ExpressionError::MacrosTooDeep { .. })), "{refused:?}");
    }
}

#[test]
fn variables_that_nobody_sets_are_refused() {
    let none = Around::default();
    let each = Around { each: true, repeat: false };
    let repeat = Around { each: false, repeat: true };
    let check = |source: &str, around| Expression::parse(source).unwrap().check_variables(around);
    assert!(check("input.a + vars.b", none).is_ok());
    assert!(check("input.list.map(x, x + 1)", none).is_ok());
    assert!(check("type(1) == int", none).is_ok());
    assert!(check("item.id + index", each).is_ok());
    assert!(check("index < 3 && last.done", repeat).is_ok());
    assert!(check("last.id == item.id", Around { each: true, repeat: true }).is_ok());
    let refused = [
        ("item.id", none),
        ("index", none),
        ("last", none),
        ("last", each),
        ("item", repeat),
        ("foo", none),
        ("x.map(y, y)", none),
        ("[1].map(x, x) == x", none),
    ];
    for (source, around) in refused {
        let refused = check(source, around);
        assert!(matches!(refused, Err(ExpressionError::UnknownVariable { .. })), "{source}");
    }
    assert_eq!(check("secrets.token", none), Err(ExpressionError::SecretMisplaced));
    let template = Template::parse("{{ foo }}").unwrap();
    assert!(template.check_variables(none).is_err());
}

#[test]
fn what_goes_wrong_says_so() {
    for source in
        ["input.missing", "1 / 0", "input.name + 1", "[1][9]", "nodes.gone.output", "int('x')"]
    {
        let failed = evaluate(source);
        assert!(matches!(failed, Err(ExpressionError::Evaluation { .. })), "{source}: {failed:?}");
    }
    let condition = Expression::parse("1").unwrap().evaluate_condition(&scope());
    assert!(condition.is_err());
}

#[test]
fn the_work_of_an_expression_is_bounded() {
    let items: Vec<u32> = (0..10_000).collect();
    let long = "x".repeat(100_000);
    let scope = Scope::of_input(json!({ "items": items, "long": long }).into());
    let sources = [
        "input.items.map(x, input.items.map(y, x * y))",
        "input.items.all(x, input.items.exists(y, y > x + 100000) || true)",
        "input.items.map(x, input.long)",
        "input.items.map(x, input)",
        "input.items.exists_one(x, input.items.all(y, y >= 0))",
        "[input.long].map(a, a+a+a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a)",
    ];
    for source in sources {
        let expression = Expression::parse(source).unwrap();
        let started = Instant::now();
        let result = expression.evaluate(&scope);
        assert_eq!(result, Err(ExpressionError::TooExpensive), "{source}");
        assert!(started.elapsed() < Duration::from_secs(20), "{source}: {:?}", started.elapsed());
    }
    let affordable = Expression::parse("input.items.map(x, x + 1).filter(x, x > 5000)").unwrap();
    assert_eq!(affordable.evaluate(&scope).unwrap().as_array().unwrap().len(), 5_000);
}

#[test]
fn what_an_evaluation_reads_is_bounded() {
    let half = "x".repeat(limits::MAX_EVALUATION_INPUT_BYTES / 2);
    let mut scope = Scope::of_input(Json::from(json!(half)));
    scope.item = Some(Json::from(json!(half)));
    scope.index = Some(1);
    let read = |source: &str| Expression::parse(source).unwrap().evaluate(&scope);
    assert!(matches!(read("input == item"), Err(ExpressionError::TooLarge { .. })));
    // What isn't named isn't read.
    assert_eq!(read("index"), Ok(json!(1)));
}

#[test]
fn templates_have_values() {
    let table = [
        ("plain", json!("plain")),
        ("", json!("")),
        ("a { b } c", json!("a { b } c")),
        ("{{ input.n }}", json!(7)),
        ("{{ input.huge }}", json!(u64::MAX)),
        ("  {{ input.n }}", json!("  7")),
        ("{{ input.list }}", json!([1, 2, 3])),
        ("{{ input.none }}", json!(null)),
        ("{{ input.half }}", json!(0.5)),
        ("{{ input.n > 3 }}", json!(true)),
        ("Hello {{ input.name }}!", json!("Hello Ada!")),
        ("{{ input.name }}{{ input.n }}", json!("Ada7")),
        ("list: {{ input.list }}", json!("list: [1,2,3]")),
        ("{{ nodes.fetch.output.items[0] }}", json!("a")),
        ("{{ nodes['my-node'].output }}", json!("ok")),
        ("{{ item.id }}/{{ index }}", json!("5/3")),
        ("{{ input.name | upper }}", json!("ADA")),
        ("{{ input.missing | default('none') }}", json!("none")),
        ("{{ input.list | join(', ') }}", json!("1, 2, 3")),
        ("{{ 'a b&c' | urlencode }}", json!("a%20b%26c")),
        ("{{ input.text | tojson }}", json!("\"a \\\"quoted\\\" word\"")),
        ("{{ 'aXb' | replace('X', '--') }}", json!("a--b")),
        ("{{ {'a': {'b': 1}} }}", json!({ "a": { "b": 1 } })),
        ("{{ '}}' }}", json!("}}")),
        ("{{ \"{%\" }}", json!("{%")),
        ("{{ input.n if input.n > 3 else 0 }}", json!(7)),
        ("{{- input.n -}}", json!(7)),
        ("a  {{- input.n -}}  b", json!("a7b")),
        ("{{ -5 }}", json!(-5)),
        ("{{ -input.n }}", json!(-7)),
        ("{ {{ input.n }} }", json!("{ 7 }")),
        ("<b>{{ '<i>' }}</b>", json!("<b><i></b>")),
    ];
    for (source, expected) in table {
        assert_eq!(render(source), Ok(expected), "{source}");
    }
}

#[test]
fn templates_that_are_not_are_refused_when_saved() {
    for source in ["{{", "{{ }}", "{{ input. }}", "{{ 'open }}", "a {{ 1 +"] {
        let refused = Template::parse(source);
        assert!(matches!(refused, Err(ExpressionError::Syntax { .. })), "{source}: {refused:?}");
    }
    for source in ["{% set a = 1 %}", "{# note #}", "x {% for i in input.list %}{% endfor %}"] {
        assert_eq!(Template::parse(source), Err(ExpressionError::Statement), "{source}");
    }
    let long = "x".repeat(limits::MAX_TEMPLATE_BYTES + 1);
    assert!(matches!(Template::parse(&long), Err(ExpressionError::TooLong { .. })));
    let many = "{{ 1 }}".repeat(limits::MAX_TEMPLATE_PARTS * 3);
    assert!(matches!(Template::parse(&many), Err(ExpressionError::TooManyParts { .. })));
}

#[test]
fn templates_are_strict_about_what_is_missing() {
    for source in ["{{ input.missing }}", "a {{ input.missing }}", "{{ input.missing.deeper }}"] {
        assert!(render(source).is_err(), "{source}");
    }
}

#[test]
fn templates_cannot_grow_without_end() {
    let growing = [
        format!("{{{{ 'x'{} }}}}", " | replace('x', 'xxxxxxxxxx')".repeat(60)),
        format!("{{{{ '\"'{} }}}}", " | tojson".repeat(200)),
        format!("{{{{ ('x' * 9999){} }}}}", " * 9999".repeat(10)),
        format!("{{{{ ([1] * 9999){} }}}}", " * 9999".repeat(5)),
        format!("{}{{{{ 1 }}}}", "{{ 'x' * 60000 }}".repeat(30)),
        "{{ ([1] * 99999) | join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') }}".to_owned(),
    ];
    for source in growing {
        let started = Instant::now();
        let result = render(&source);
        assert!(result.is_err(), "{source:.40}");
        assert!(started.elapsed() < Duration::from_secs(20), "{source:.40}");
    }
}

#[test]
fn a_program_names_the_nodes_it_reads() {
    let source = "nodes.a.output + nodes['b-c'].output + nodes [ \"d\" ].output + x.nodes.e";
    assert_eq!(node_references(source), Ok(vec!["a".into(), "b-c".into(), "d".into()]));
    let template = Template::parse("{{ nodes.a.output }} {{ nodes.b.output }}").unwrap();
    assert_eq!(template.node_references().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn programs_are_shared() {
    let mut compiler = Compiler::new();
    let first = compiler.expression("input.n + 1").unwrap();
    let second = compiler.expression("input.n + 1").unwrap();
    assert!(std::ptr::eq(first.source(), second.source()));
}

/// Text that is often nearly an expression.
fn nearly() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "input",
        "nodes",
        "vars",
        ".",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "{{",
        "}}",
        "'",
        "\"",
        "map",
        "x",
        ",",
        "+",
        "-",
        "*",
        "?",
        ":",
        "1",
        "1.5",
        "-9223372036854775808",
        "all",
        "has",
        "in",
        " ",
        "|",
        "default",
        "join",
        "~",
        "not",
        "\\",
        "é",
        "\u{0}",
        "true",
        "==",
        "&&",
        "items",
        "@",
        "`",
        "upper",
        "==",
        "%",
        "#",
        "duration",
        "timestamp",
        "list",
        "n",
        "9223372036854775807",
        "u",
        "dyn",
        "_",
        "//",
        "\n",
        "b'",
        "r'",
        "'''",
    ]);
    prop_oneof![
        any::<String>(),
        prop::collection::vec(word, 0..25).prop_map(|words| words.concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_brings_an_expression_down(source in nearly()) {
        if let Ok(expression) = Expression::parse(&source) {
            let _ = expression.evaluate(&scope());
        }
    }

    #[test]
    fn no_text_brings_a_template_down(source in nearly(), inside in nearly()) {
        for source in [source, format!("{{{{ {inside} }}}}")] {
            if let Ok(template) = Template::parse(&source) {
                let _ = template.evaluate(&scope());
            }
        }
    }

    /// A template without `{{` is its own value.
    #[test]
    fn plain_text_stays_as_it_is(text in "[^{]*") {
        prop_assert_eq!(render(&text), Ok(Value::from(text)));
    }

    /// Any JSON goes through both languages unchanged.
    #[test]
    fn values_pass_through_unchanged(n in any::<i64>(), text in any::<String>(), flag in any::<bool>()) {
        let value = json!({ "n": n, "text": text, "flag": flag, "list": [n, text], "none": null });
        let scope = Scope::of_input(value.clone().into());
        prop_assert_eq!(Expression::parse("input").unwrap().evaluate(&scope), Ok(value.clone()));
        prop_assert_eq!(Template::parse("{{ input }}").unwrap().evaluate(&scope), Ok(value));
    }
}

mod secrets {
    use super::*;
    use crate::{expression::Veil, vault::SecretName};

    fn names(source: &str) -> Vec<String> {
        let template = Template::parse(source).expect("sound");
        template.secrets().map(SecretName::to_string).collect()
    }

    #[test]
    fn a_secret_stands_alone_in_its_braces() {
        let table: [(&str, &[&str]); 6] = [
            ("{{ secrets.KEY }}", &["KEY"]),
            ("{{secrets.KEY}}", &["KEY"]),
            ("Bearer {{ secrets.KEY }}", &["KEY"]),
            ("{{ secrets[\"a\"] }}:{{ secrets['b'] }}", &["a", "b"]),
            ("{{ input.x }} {{- secrets.KEY -}} {{ 'secrets.OTHER' }}", &["KEY"]),
            ("secrets.KEY", &[]),
        ];
        for (source, expected) in table {
            assert_eq!(names(source), expected, "{source}");
        }
        let refused = [
            "{{ secrets }}",
            "{{ secrets.a ~ secrets.b }}",
            "{{ secrets.a | upper }}",
            "{{ secrets.a[0] }}",
            "{{ secrets.a.b }}",
            "{{ secrets[input.x] }}",
            "{{ 'x' if secrets.a else 'y' }}",
            "{{ secrets['a b'] }}",
            "{{ (secrets.a) }}",
        ];
        for source in refused {
            assert_eq!(
                Template::parse(source).unwrap_err(),
                ExpressionError::SecretNotAlone,
                "{source}"
            );
        }
    }

    #[test]
    fn evaluation_sees_a_stand_in_and_never_a_value() {
        let veil = Veil::new(1);
        let scope =
            Scope { veil: Some(veil.clone()), ..Scope::of_input(json!({ "x": "in" }).into()) };
        let text =
            Template::parse("{{ input.x }}-{{ secrets.KEY }}").unwrap().render(&scope).unwrap();
        assert_eq!(veil.replaced(&text, |name| format!("<{name}>")), "in-<KEY>");
        let alone = Template::parse("{{ secrets.KEY }}").unwrap().evaluate(&scope).unwrap();
        assert!(alone.is_string());
        let nowhere = Scope::default();
        let refused = Template::parse("{{ secrets.KEY }}").unwrap().evaluate(&nowhere);
        assert_eq!(refused.unwrap_err(), ExpressionError::SecretMisplaced);
    }

    #[test]
    fn an_input_that_names_a_secret_is_only_text() {
        let scope = Scope {
            veil: Some(Veil::new(1)),
            ..Scope::of_input(json!({ "x": "{{ secrets.KEY }}" }).into())
        };
        let text = Template::parse("{{ input.x }}").unwrap().render(&scope).unwrap();
        assert_eq!(text, "{{ secrets.KEY }}");
    }
}
