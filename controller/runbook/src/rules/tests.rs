//! The three truth values, and that no expression does harm.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vigie_proto::descriptors;

use super::{
    evaluate::{Evaluator, Fact, Facts, Unknown},
    *,
};
use crate::{guard::on_a_big_stack, parameters::ParameterType, read::Reader};

/// `here` is there and `gone` is not; both are containers. `list` holds three services.
fn names() -> Names {
    let probe = |id: &str, operation: &str| (id.to_owned(), descriptors::result(operation).unwrap());
    Names {
        probes: BTreeMap::from([
            probe("here", "container_inspect"),
            probe("gone", "container_inspect"),
            probe("list", "compose_ps"),
            probe("load", "host_load"),
        ]),
        parameters: BTreeMap::from([("port".to_owned(), ParameterType::Integer)]),
        ..Names::default()
    }
}

fn facts() -> Facts {
    let message =
        |operation: &str| prost_reflect::DynamicMessage::new(descriptors::result(operation).unwrap());
    let mut here = message("container_inspect");
    here.set_field_by_name("state", prost_reflect::Value::String("running".to_owned()));
    here.set_field_by_name("restart_count", prost_reflect::Value::U32(3));
    let names = ["backend", "redis", "postgres"].map(|name| prost_reflect::Value::String(name.to_owned()));
    let mut list = message("compose_ps");
    list.set_field_by_name("missing", prost_reflect::Value::List(names.to_vec()));
    let there = |message| Fact::Here { result: Value::message(&message), failure: String::new() };
    Facts {
        probes: BTreeMap::from([
            ("here".to_owned(), there(here)),
            ("gone".to_owned(), Fact::Missing { why: "no answer".to_owned(), code: "timeout".to_owned() }),
            ("list".to_owned(), there(list)),
            ("load".to_owned(), there(message("host_load"))),
        ]),
        parameters: BTreeMap::from([("port".to_owned(), Value::Int(8000))]),
        stack: "sylion".to_owned(),
        host: "vps1".to_owned(),
        now_ms: 1_000,
    }
}

/// The rule as it would stand in a runbook, or what is wrong with it.
fn read(text: &str) -> Result<Rule, Vec<String>> {
    let yaml = serde_json::to_string(text).unwrap();
    let node = crate::read::tree::parse(&yaml).unwrap();
    let mut reader = Reader::new(&yaml);
    let rule = Rule::read_any(&node, "a rule", &names(), &mut reader);
    let wrong = reader.finish().into_iter().map(|found| {
        // The quote is no part of the rule.
        let caret = " ".repeat(found.column as usize - 2);
        let hint = if found.hint.is_empty() { String::new() } else { format!(" | {}", found.hint) };
        format!("{caret}^ {}{hint}", found.message)
    });
    rule.ok_or(()).or(Err(wrong.clone().collect())).and_then(|rule| {
        let wrong: Vec<_> = wrong.collect();
        if wrong.is_empty() { Ok(rule) } else { Err(wrong) }
    })
}

fn value(text: &str) -> Result<String, Unknown> {
    let rule = read(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
    rule.value(&mut Evaluator::new(&facts())).map(|value| value.shown())
}

/// `true`, `false` or `unknown`.
fn truth(text: &str) -> &'static str {
    match read(text)
        .unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"))
        .holds(&mut Evaluator::new(&facts()))
        .0
    {
        Ok(true) => "true",
        Ok(false) => "false",
        Err(_) => "unknown",
    }
}

const VALUES: [(&str, &str); 3] = [
    ("true", "here.state == 'running'"),
    ("false", "here.state == 'dead'"),
    ("unknown", "gone.state == 'running'"),
];

#[test]
fn and_or_not_are_kleenes() {
    for (a, left) in VALUES {
        for (b, right) in VALUES {
            let and = match (a, b) {
                ("false", _) | (_, "false") => "false",
                ("true", "true") => "true",
                _ => "unknown",
            };
            let or = match (a, b) {
                ("true", _) | (_, "true") => "true",
                ("false", "false") => "false",
                _ => "unknown",
            };
            assert_eq!(truth(&format!("{left} && {right}")), and, "{a} && {b}");
            assert_eq!(truth(&format!("{left} || {right}")), or, "{a} || {b}");
        }
        let not = match a {
            "true" => "false",
            "false" => "true",
            _ => "unknown",
        };
        assert_eq!(truth(&format!("!({left})")), not);
    }
}

#[test]
fn what_touches_missing_evidence_is_unknown() {
    for text in [
        "gone.restart_count > 2",
        "gone.restart_count + 1 == 3",
        "size(gone.ports) == 0",
        "gone.state in ['running']",
        "gone.ports.exists(p, p.host_port == 1)",
        "gone.state == gone.state",
        "gone.state.matches('x')",
        "(gone.state == 'a' ? 1 : 2) == 1",
    ] {
        assert_eq!(truth(text), "unknown", "{text}");
    }
    assert_eq!(truth("answered(gone)"), "false");
    assert_eq!(truth("answered(here)"), "true");
    assert_eq!(truth("failure(gone) == 'timeout' && failure(here) == ''"), "true");
    // Both ways lead to the same.
    assert_eq!(truth("(gone.state == 'a' ? 1 : 1) == 1"), "true");
    assert_eq!(truth("gone.present ? true : here.state == 'running'"), "true");
}

#[test]
fn lists_are_asked_in_three_values() {
    // Each item is true, false or unknown by its own.
    let items = |body: &str, verb: &str| truth(&format!("list.missing.{verb}(m, {body})"));
    assert_eq!(items("m == 'redis' || gone.present", "exists"), "true");
    assert_eq!(items("m == 'nobody' || gone.present", "exists"), "unknown");
    assert_eq!(items("m != 'redis' && gone.present", "all"), "false");
    assert_eq!(items("m != 'nobody' || gone.present", "all"), "true");
    assert_eq!(items("m != 'redis' || gone.present", "all"), "unknown");
    assert_eq!(items("m == 'redis'", "exists_one"), "true");
    assert_eq!(items("m != 'redis'", "exists_one"), "false");
    assert_eq!(items("m != 'redis' || gone.present", "exists_one"), "false");
    assert_eq!(
        value("list.missing.filter(m, m.contains('s')).map(m, m + '!')").unwrap(),
        "redis!, postgres!"
    );
    assert_eq!(truth("size(list.missing.filter(m, gone.present)) == 0"), "unknown");
    assert_eq!(truth("[].exists(x, gone.present)"), "false");
    assert_eq!(truth("list.missing.exists(a, list.missing.exists(b, a == b && a.startsWith('p')))"), "true");
}

#[test]
fn unknown_says_what_was_missing() {
    let explain = |text: &str| {
        let facts = facts();
        read(text).unwrap().value(&mut Evaluator::new(&facts)).unwrap_err().explain(&facts)
    };
    assert_eq!(
        explain("gone.present && here.restart_count / 0 == 1"),
        "gone: no answer; the rule divides by zero"
    );
    assert_eq!(explain("list.missing[7]"), "a list of 3 has no item 7");
    assert_eq!(explain("first([])"), "an empty list has neither first nor last item");
    assert_eq!(explain("9223372036854775807 + here.restart_count"), "a number in the rule is out of range");
    assert_eq!(explain("int('x')"), "\"x\" is no number");
}

#[test]
fn values_are_what_people_expect() {
    for (text, expected) in [
        ("here.restart_count * 2 - 1", "5"),
        ("-7 / 2", "-3"),
        ("7 % 4", "3"),
        ("load.load_1 < 1 && load.load_1 < 1.5", "true"),
        ("double(here.restart_count) / 2.0", "1.5"),
        ("'a' + string(params.port)", "a8000"),
        ("size('é!')", "2"),
        ("host + '/' + stack", "vps1/sylion"),
        ("now_ms", "1000"),
        ("'x7y8'.extract('([0-9])')", "7"),
        ("'x7y8'.extract('[a-z]([A-Z])|y(8)')", "8"),
        ("extract('x', '[0-9]')", ""),
        ("first([3, 4]) + last([3, 4])", "7"),
        ("['a'] + ['b']", "a, b"),
        ("here.restart_count == 3.0", "true"),
        ("'b' > 'a' && 'redis' in list.missing", "true"),
        ("r'\\d' == '\\\\d'", "true"),
    ] {
        assert_eq!(value(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_can_never_hold_is_found_before() {
    let mut told = String::new();
    for text in [
        "here.stat == 'x'",
        "her.state == 'x'",
        "here.state == 3",
        "here.restart_count",
        "here.restart_count && true",
        "size(here.restart_count) > 0",
        "list.services.state == 'x'",
        "list.services.exists(s, s.stat == 'x')",
        "params.prt > 1",
        "has(here.state)",
        "here.state.matches('(')",
        "here.state.matches(host)",
        "here.exit_code == 1u",
        "here == null",
        "contain(here.state, 'x')",
        "list.missing.contains('x')",
        "load.load_1 + 1 > 2.0",
        "answered('here')",
        "list.missing.exists(stack, true)",
        "here.state ==",
        "'é' == here.stat",
    ] {
        let found = read(text).map(|_| "sound".to_owned()).unwrap_or_else(|wrong| wrong.join("\n"));
        told += &format!("{text}\n{found}\n");
    }
    insta::assert_snapshot!(told, @r##"
    here.stat == 'x'
         ^ ContainerInspectResult has no field `stat` | did you mean `state`?
    her.state == 'x'
    ^ there is no probe `her` here | did you mean `here`?
    here.state == 3
    ^ `==` does not go with a text and an integer
    here.restart_count
    sound
    here.restart_count && true
    ^ true or false is needed here, and this is an integer | compare it: `x > 0`
    size(here.restart_count) > 0
         ^ `size` does not take an integer
    list.services.state == 'x'
                  ^ a list has no field `state` | ask its items: `.exists(x, …)`, `.map(x, …)`, `[0]`, `first(…)`
    list.services.exists(s, s.stat == 'x')
                              ^ Container has no field `stat` | did you mean `state`?
    params.prt > 1
           ^ the runbook has no parameter `prt` | did you mean `port`?
    has(here.state)
    ^ rules do not need `has` | every field is there; `answered(probe)` tells whether there is evidence
    here.state.matches('(')
                       ^ this is no regular expression: unclosed group
    here.state.matches(host)
                       ^ a pattern is written out, not computed
    here.exit_code == 1u
                      ^ rules have no unsigned numbers | write `1`: every integer is of one kind here
    here == null
            ^ rules have neither null nor bytes | a field that is not set is empty, 0 or false; `answered(probe)` tells whether it is there
    contain(here.state, 'x')
    ^ there is no function `contain` | did you mean `contains`?
    list.missing.contains('x')
    ^ `contains` is for texts | for a list write `part in list`
    load.load_1 + 1 > 2.0
    ^ `+` does not go with a decimal number and an integer | turn one into the other: `double(x)` or `int(x)`
    answered('here')
             ^ `answered` takes the id of a probe
    list.missing.exists(stack, true)
                        ^ `stack` has a meaning already | take another name for the item
    here.state ==
                 ^ in the rule: mismatched input 'the end'
    'é' == here.stat
                ^ ContainerInspectResult has no field `stat` | did you mean `state`?
    "##);
}

#[test]
fn a_rule_that_is_too_much_work_is_unknown() {
    // Each asks the one inside it for every item.
    let mut nested = "list.missing.all(a, true)".to_owned();
    for name in ["b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"] {
        nested = format!("list.missing.all({name}, {nested})");
    }
    // Lists of lists of lists of the same list: little to hold, and much to compare.
    let (mut grown, mut text) = ("list.missing".to_owned(), String::new());
    for name in ["b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"] {
        grown = format!("[{grown}, {grown}].map({name}, {name})");
        if grown.len() > 900 {
            break;
        }
        text = format!(
            "[1, 2, 3, 4, 5, 6, 7, 8, 9].all(x, {grown} == {grown} && '{}'.matches('(a|aa)+$'))",
            "a".repeat(200)
        );
    }
    let facts = facts();
    let (nested, text) = (read(&nested).unwrap(), read(&text).unwrap());
    assert!(text.holds(&mut Evaluator::new(&facts)).0.is_ok());
    let mut evaluator = Evaluator::new(&facts);
    for _ in 0..40 {
        let answer = nested.holds(&mut evaluator).0;
        assert_eq!(answer.unwrap_err().explain(&facts), "the rule is too much work for this evidence");
    }
    // The judgement's own bound is used up: not even a small rule is answered any more.
    assert!(read("1 == 1").unwrap().holds(&mut evaluator).0.is_err());
}

#[test]
fn evidence_is_what_was_looked_at() {
    let facts = facts();
    let used = |text: &str| -> Vec<String> {
        let (_, used) = read(text).unwrap().holds(&mut Evaluator::new(&facts));
        used.into_iter().map(|used| format!("{}={}", used.reference, used.value.shown())).collect()
    };
    assert_eq!(
        used("here.restart_count > 2 && here.state == 'x'"),
        ["here.restart_count=3", "here.state=running"]
    );
    assert_eq!(used("here.state == 'x' && here.restart_count > 2"), ["here.state=running"]);
    assert_eq!(used("list.missing.exists(m, m == 'redis')"), ["list.missing=redis"]);
    assert_eq!(used("list.missing.exists(m, m == 'x')"), ["list.missing=backend, redis, postgres"]);
    assert_eq!(used("size(list.missing.filter(m, m != 'redis')) == 2"), ["list.missing=backend, postgres"]);
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("true".to_owned()),
        Just("here.restart_count".to_owned()),
        Just("gone.restart_count".to_owned()),
        Just("here.state".to_owned()),
        Just("list.missing".to_owned()),
        Just("load.load_1".to_owned()),
        Just("here.ports".to_owned()),
        Just("here".to_owned()),
        Just("x".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        Just("'redis'".to_owned()),
        Just("[1, 2, 3]".to_owned()),
    ];
    leaf.prop_recursive(6, 60, 3, |inner| {
        let operators =
            prop::sample::select(vec!["&&", "||", "==", "!=", "<", ">=", "+", "-", "*", "/", "%", "in"]);
        let verbs = prop::sample::select(vec!["exists", "all", "filter", "map", "exists_one"]);
        let calls = prop::sample::select(vec!["size", "string", "int", "double", "first", "last", "!", "-"]);
        prop_oneof![
            (inner.clone(), operators, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), verbs, inner.clone())
                .prop_map(|(list, verb, body)| format!("{list}.{verb}(x, {body})")),
            (calls, inner.clone()).prop_map(|(call, a)| format!("{call}({a})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{a}[{b}]")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_expression_does_harm(text in expression()) {
        let facts = facts();
        let outcome = on_a_big_stack(|| {
            let started = std::time::Instant::now();
            if let Ok(rule) = read(&text) {
                let _ = rule.value(&mut Evaluator::new(&facts));
            }
            started.elapsed()
        });
        prop_assert!(outcome.is_ok_and(|took| took < std::time::Duration::from_secs(2)));
    }

    #[test]
    fn order_does_not_matter_to_truth(a in 0_usize..3, b in 0_usize..3, c in 0_usize..3) {
        let [a, b, c] = [a, b, c].map(|value| VALUES[value].1);
        prop_assert_eq!(truth(&format!("({a}) && ({b}) || ({c})")), truth(&format!("({c}) || ({b}) && ({a})")));
        prop_assert_eq!(truth(&format!("!(({a}) && ({b}))")), truth(&format!("!({a}) || !({b})")));
    }
}
