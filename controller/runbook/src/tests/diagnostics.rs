//! What people are told about a runbook that is wrong: where, why, and what to write instead.

use crate::{Runbook, lint};

/// A sound runbook that the tests spoil.
pub(super) const SMALL: &str = r#"id: small
title: A small runbook
parameters:
  service: { type: string, default: backend }
  wait: { type: duration, default: 2s }
diagnose:
  - id: backend
    container_inspect: { service: "{{ params.service }}" }
  - id: http
    http_check: { target: proxy, wait_ms: "{{ params.wait }}" }
    timeout: 10s
    after: backend
findings:
  - id: stopped
    title: It is stopped
    when: backend.state == "exited"
    says: "{{ backend.name }} on {{ host }} is {{ backend.state }} with {{ backend.exit_code }}"
    explains: [silent]
  - id: silent
    title: It is silent
    when: http.status == 0
    says: "no answer: {{ http.failure }}"
    advise: look at it
remedies:
  - id: restart
    title: Restart it
    for: [stopped]
    risk: low
    steps:
      - compose_restart: { services: ["{{ params.service }}"] }
        timeout: 2m
verify:
  probes: [backend]
  until: backend.state == "running"
  within: 30s
restore_backup:
  - { answer: yes, when: backend.exit_code == 99, why: "{{ backend.name }} lost its data" }
  - { answer: never, why: nothing is lost }
checklist:
  - { says: It runs, when: backend.state == "running" }
  - says: Told the others
rollout: { batches: [1, 50%], max_failures: 1 }
"#;

/// The small runbook with one thing changed.
fn spoilt(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    lint(&SMALL.replacen(from, to, 1), "small.yaml").to_string()
}

#[test]
fn a_sound_runbook_has_nothing_wrong() {
    assert_eq!(lint(SMALL, "small.yaml").to_string(), "");
    let runbook = Runbook::parse(SMALL, "small.yaml").unwrap();
    assert_eq!((runbook.id.as_str(), runbook.text.as_str()), ("small", SMALL));
    assert_eq!(runbook.digest[..], <sha2::Sha256 as sha2::Digest>::digest(SMALL)[..]);
}

#[test]
fn unknown_words_are_met_with_the_word_that_was_meant() {
    insta::assert_snapshot!(spoilt("    explains:", "    explain:"), @r##"
    error: unknown key `explain` in a finding
      --> small.yaml:18:5
       |
    18 |     explain: [silent]
       |     ^
      hint: did you mean `explains`?
    "##);
    insta::assert_snapshot!(spoilt("container_inspect:", "container_inspct:"), @r##"
    error: there is no operation `container_inspct`
      --> small.yaml:8:5
      |
    8 |     container_inspct: { service: "{{ params.service }}" }
      |     ^
      hint: did you mean `container_inspect`?
    "##);
    insta::assert_snapshot!(spoilt("{ service: \"{{", "{ servce: \"{{"), @r##"
    error: container_inspect has no argument `servce`
      --> small.yaml:8:26
      |
    8 |     container_inspect: { servce: "{{ params.service }}" }
      |                          ^
      hint: did you mean `service`?
    "##);
    insta::assert_snapshot!(spoilt("target: proxy", "target: proxi"), @r##"
    error: `target` is never `proxi`
      --> small.yaml:10:27
       |
    10 |     http_check: { target: proxi, wait_ms: "{{ params.wait }}" }
       |                           ^
      hint: did you mean `proxy`?
    "##);
    insta::assert_snapshot!(spoilt("for: [stopped]", "for: [stoped]"), @r##"
    error: `stoped` is not the id of a finding
      --> small.yaml:27:11
       |
    27 |     for: [stoped]
       |           ^
      hint: did you mean `stopped`?
    "##);
}

#[test]
fn expressions_are_pointed_into() {
    insta::assert_snapshot!(spoilt("when: backend.state ==", "when: backend.stat =="), @r##"
    error: ContainerInspectResult has no field `stat`
      --> small.yaml:16:19
       |
    16 |     when: backend.stat == "exited"
       |                   ^
      hint: did you mean `state`?
    "##);
    insta::assert_snapshot!(spoilt("with {{ backend.exit_code }}", "with {{ backend.exit_cod }}"), @r##"
    error: ContainerInspectResult has no field `exit_cod`
      --> small.yaml:17:84
       |
    17 |     says: "{{ backend.name }} on {{ host }} is {{ backend.state }} with {{ backend.exit_cod }}"
       |                                                                                    ^
      hint: did you mean `exit_code`?
    "##);
    insta::assert_snapshot!(spoilt("when: http.status == 0", "when: >-\n      http.status == 0 &&\n      htp.failure == \"\""), @r##"
    error: there is no probe `htp` here
      --> small.yaml:23:7
       |
    23 |       htp.failure == ""
       |       ^
      hint: did you mean `http`?
    "##);
    insta::assert_snapshot!(spoilt("when: http.status == 0", "when: \"http.status == \\\"x\\\"\""), @r##"
    error: `==` does not go with an integer and a text
      --> small.yaml:21:12
       |
    21 |     when: "http.status == \"x\""
       |            ^
    "##);
    insta::assert_snapshot!(spoilt("{{ http.failure }}", "{{ http.failure"), @r##"
    error: `{{` without `}}`
      --> small.yaml:22:23
       |
    22 |     says: "no answer: {{ http.failure"
       |                       ^
    "##);
}

#[test]
fn arguments_are_checked_as_the_agent_checks_them() {
    insta::assert_snapshot!(spoilt("default: backend }", "default: \"; id\" }"), @r##"
    error: container_inspect: `service` is "; id", which does not match [A-Za-z0-9][A-Za-z0-9_.-]*
      --> small.yaml:8:35
      |
    8 |     container_inspect: { service: "{{ params.service }}" }
      |                                   ^

    error: compose_restart: `services` is "; id", which does not match [A-Za-z0-9][A-Za-z0-9_.-]*
      --> small.yaml:30:38
       |
    30 |       - compose_restart: { services: ["{{ params.service }}"] }
       |                                      ^
    "##);
    insta::assert_snapshot!(spoilt("wait_ms: \"{{ params.wait }}\"", "wait_ms: 90000"), @r##"
    error: http_check: `wait_ms` is 90000, which is not within 0 to 60000
      --> small.yaml:10:43
       |
    10 |     http_check: { target: proxy, wait_ms: 90000 }
       |                                           ^
    "##);
    insta::assert_snapshot!(spoilt("wait_ms: \"{{ params.wait }}\"", "wait_ms: \"5\""), @r##"
    error: `wait_ms` is a number, not `5`
      --> small.yaml:10:43
       |
    10 |     http_check: { target: proxy, wait_ms: "5" }
       |                                           ^
      hint: write it without quotes
    "##);
    insta::assert_snapshot!(spoilt("wait_ms: \"{{ params.wait }}\"", "wait_ms: \"{{ params.service }}\""), @r##"
    error: `wait_ms` cannot be a parameter of type string
      --> small.yaml:10:43
       |
    10 |     http_check: { target: proxy, wait_ms: "{{ params.service }}" }
       |                                           ^
    "##);
    insta::assert_snapshot!(spoilt("services: [\"{{ params.service }}\"]", "services: \"{{ params.service }}\""), @r##"
    error: `services` is a list, not a text
      --> small.yaml:30:38
       |
    30 |       - compose_restart: { services: "{{ params.service }}" }
       |                                      ^
      hint: write it in brackets: `[a, b]`
    "##);
    insta::assert_snapshot!(spoilt("services: [\"{{ params.service }}\"]", "stack: sylion"), @r##"
    error: compose_restart: `services` is required
      --> small.yaml:30:9
       |
    30 |       - compose_restart: { stack: sylion }
       |         ^
    "##);
    insta::assert_snapshot!(spoilt("\"{{ params.service }}\" }", "\"{{ backend.name }}\" }"), @r##"
    error: `service` can hold parameters and nothing else
      --> small.yaml:8:38
      |
    8 |     container_inspect: { service: "{{ backend.name }}" }
      |                                      ^
      hint: `{{ params.name }}`
    "##);
}

#[test]
fn probes_read_and_steps_change() {
    insta::assert_snapshot!(
        spoilt("container_inspect: { service: \"{{ params.service }}\" }", "unit_restart: { unit: nginx.service }"), @r##"
        error: unit_restart is no probe
          --> small.yaml:7:9
          |
        7 |   - id: backend
          |         ^
          hint: a probe only reads; what changes something is a step of a remedy
        "##
    );
    insta::assert_snapshot!(spoilt("    timeout: 10s", "    compose_ps: {}"), @r##"
    error: a second operation
      --> small.yaml:11:5
       |
    11 |     compose_ps: {}
       |     ^
      hint: give it an entry of its own
    "##);
    insta::assert_snapshot!(
        spoilt("compose_restart: { services: [\"{{ params.service }}\"] }", "compose_ps: {}"), @r##"
        error: compose_ps changes nothing
          --> small.yaml:30:9
           |
        30 |       - compose_ps: {}
           |         ^
          hint: what only reads belongs into `verify`, or into a `wait`
        "##
    );
}

#[test]
fn what_leaves_no_root_cause_or_no_end_is_refused() {
    insta::assert_snapshot!(spoilt("    advise: look at it\n", "    explains: [stopped]\n"), @r##"
    error: `stopped` explains itself, by way of `silent`
      --> small.yaml:14:5
       |
    14 |   - id: stopped
       |     ^
      hint: a cause explains its consequences, and they do not explain it
    "##);
    insta::assert_snapshot!(spoilt("    after: backend\n", "    after: http\n"), @r##"
    error: `http` is not the id of a probe above this one
      --> small.yaml:12:12
       |
    12 |     after: http
       |            ^
      hint: known are backend
    "##);
    insta::assert_snapshot!(spoilt("verify:\n  probes: [backend]\n  until: backend.state == \"running\"\n  within: 30s\n", ""), @r##"
    error: nothing tells whether this remedy worked
      --> small.yaml:25:5
       |
    25 |   - id: restart
       |     ^
      hint: add `verify` to the remedy, or one for all remedies to the runbook
    "##);
    insta::assert_snapshot!(spoilt("- { answer: never, why", "- { answer: never, when: true, why"), @r##"
    error: the last answer holds when no other does: it has no `when`
      --> small.yaml:38:5
       |
    38 |   - { answer: never, when: true, why: nothing is lost }
       |     ^
    "##);
}

#[test]
fn what_loses_something_needs_a_reason_beyond_its_finding() {
    let (step, destroys) = (
        "compose_restart: { services: [\"{{ params.service }}\"] }",
        "firewall_allow: { port: 443, protocol: tcp }",
    );
    insta::assert_snapshot!(spoilt(step, destroys), @r##"
    error: firewall_allow loses something, and this remedy has no `when`
      --> small.yaml:25:5
       |
    25 |   - id: restart
       |     ^
      hint: say in `when` what has to be true before anybody is asked to agree to it
    "##);
    let reasoned = |when: &str| {
        let destroying = SMALL.replacen(step, destroys, 1);
        let text = destroying.replacen("risk: low", &format!("risk: low\n    when: {when}"), 1);
        lint(&text, "small.yaml").to_string()
    };
    for sound in ["backend.exit_code == 0", "params.service != \"\"", "answered(http)"] {
        assert_eq!(reasoned(sound), "", "{sound}");
    }
    insta::assert_snapshot!(reasoned("true"), @r##"
    error: firewall_allow loses something, and this `when` asks for nothing
      --> small.yaml:29:11
       |
    29 |     when: true
       |           ^
      hint: say in `when` what has to be true before anybody is asked to agree to it
    "##);
    for idle in ["1 == 1", "host != \"\"", "now_ms > 0", "backend.exit_code == 0 || 2 > 1", "size([1]) == 1"]
    {
        assert!(reasoned(idle).contains("asks for nothing"), "{idle}: {}", reasoned(idle));
    }
}

#[test]
fn findings_of_other_runbooks_are_known_or_said() {
    insta::assert_snapshot!(spoilt("explains: [silent]", "explains: [silent, backend-502.gateway_eror]"), @r##"
    error: `backend-502.gateway_eror`: `backend-502` has no finding `gateway_eror`
      --> small.yaml:18:24
       |
    18 |     explains: [silent, backend-502.gateway_eror]
       |                        ^
      hint: did you mean `gateway_error`?
    "##);
    insta::assert_snapshot!(spoilt("explains: [silent]", "explains: [silent, backend-501.unhealthy]"), @r##"
    error: `backend-501.unhealthy`: there is no runbook `backend-501`
      --> small.yaml:18:24
       |
    18 |     explains: [silent, backend-501.unhealthy]
       |                        ^
      hint: did you mean `backend-502`?
    "##);
    let sound = SMALL.replacen("explains: [silent]", "explains: [silent, \"backend-502.*\", mine.own]", 1);
    let mine = sound.replacen("id: small", "id: mine", 1).replacen("id: silent", "id: own", 1);
    assert!(lint(&sound, "small.yaml").has_errors());
    assert_eq!(crate::lint_among(&sound, "small.yaml", &crate::findings_of([mine.as_str()])).to_string(), "");
}

#[test]
fn yaml_that_surprises_is_explained() {
    insta::assert_snapshot!(spoilt("when: http.status == 0", "when: !answered(http)"), @r##"
    error: tags are not used in runbooks
      --> small.yaml:21:26
       |
    21 |     when: !answered(http)
       |                          ^
      hint: quote a text that begins with `!`: "!answered(x)"
    "##);
    insta::assert_snapshot!(spoilt("{ service: \"{{ params.service }}\" }", "{ service: {{ params.service }} }"), @r##"
    error: a key is a plain word
      --> small.yaml:8:36
      |
    8 |     container_inspect: { service: {{ params.service }} }
      |                                    ^
      hint: a text that begins with `{{` needs quotes: "{{ params.service }}"
    "##);
    insta::assert_snapshot!(spoilt("    advise: look at it", "    title: Again"), @r##"
    error: `title` is here a second time
      --> small.yaml:23:5
       |
    23 |     title: Again
       |     ^
      hint: the first is on line 20
    "##);
    insta::assert_snapshot!(spoilt("says: It runs", "says: [It: runs"), @r##"
    error: this is not YAML: mismatched bracket '[' closed by '}'
      --> small.yaml:40:13
       |
    40 |   - { says: [It: runs, when: backend.state == "running" }
       |             ^
    "##);
    insta::assert_snapshot!(lint("", "empty.yaml").to_string(), @r##"
    error: the document is empty
      --> empty.yaml:1:1
    "##);
    insta::assert_snapshot!(lint("- a", "list.yaml").to_string(), @r##"
    error: a runbook is a mapping, not a list
      --> list.yaml:1:1
      |
    1 | - a
      | ^
    "##);
    insta::assert_snapshot!(lint("id: a\n---\nid: b\n", "two.yaml").to_string(), @r##"
    error: a second document begins here
      --> two.yaml:2:1
      |
    2 | ---
      | ^
      hint: a file holds one runbook
    "##);
}

#[test]
fn many_things_are_told_at_once() {
    let text = SMALL.replace("risk: low", "risk: lo").replace("30s", "30").replace("id: small", "id: Small!");
    let text = text.replace("max_failures: 1", "max_failures: some").replace("type: duration", "type: time");
    insta::assert_snapshot!(lint(&text, "small.yaml").to_string(), @r##"
    error: `Small!` is no id
      --> small.yaml:1:5
      |
    1 | id: Small!
      |     ^
      hint: lower-case letters, digits and `-`, beginning with a letter, at most 64

    error: `type` cannot be `time`
      --> small.yaml:5:17
      |
    5 |   wait: { type: time, default: 2s }
      |                 ^
      hint: known are bool, duration, int, string

    error: the runbook has no parameter `wait`
      --> small.yaml:10:46
       |
    10 |     http_check: { target: proxy, wait_ms: "{{ params.wait }}" }
       |                                              ^
      hint: known are service

    error: `risk` cannot be `lo`
      --> small.yaml:28:11
       |
    28 |     risk: lo
       |           ^
      hint: did you mean `low`?

    error: `within` is a length of time, not `30`
      --> small.yaml:35:11
       |
    35 |   within: 30
       |           ^
      hint: a number with its unit: 500ms, 90s, 2m, 1h

    error: `max_failures` is a number, not `some`
      --> small.yaml:42:45
       |
    42 | rollout: { batches: [1, 50%], max_failures: some }
       |                                             ^
    "##);
}

#[test]
fn what_nobody_uses_is_a_warning_and_no_refusal() {
    let text = SMALL.replace("    after: backend\n", "    after: [spare]\n");
    let text = text.replace("diagnose:\n", "diagnose:\n  - id: spare\n    compose_ps:\n");
    let text = text.replace("title: It is silent\n", "title: It is silent\n    severity: notice\n");
    assert_eq!(lint(&text, "small.yaml").to_string(), "", "something waits for `spare`");
    let text = text
        .replace("    after: [spare]\n", "")
        .replace("    explains: [silent]\n", "")
        .replace("    advise: look at it\n", "");
    let found = lint(&text, "small.yaml");
    assert!(!found.has_errors() && Runbook::parse(&text, "small.yaml").is_ok());
    insta::assert_snapshot!(found.to_string(), @r##"
    warning: no rule looks at the probe `spare`
      --> small.yaml:7:5
      |
    7 |   - id: spare
      |     ^

    warning: `silent` has neither a remedy nor advice
      --> small.yaml:19:5
       |
    19 |   - id: silent
       |     ^
      hint: say in `advise` what a person should do
    "##);
}

#[test]
fn bombs_are_refused_before_they_grow() {
    // Nine lists of nine references each, nine deep: 9⁹ items.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![below; 9].join(", "));
    }
    let found = lint(&bomb, "bomb.yaml");
    assert!(found.to_string().contains("more than 50000 nodes"), "{found}");
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(200_000), vec!["*a"; 50].join(", "));
    assert!(lint(&text, "bomb.yaml").to_string().contains("bytes of text"));
    assert!(lint(&format!("a: {}", "[".repeat(200_000)), "bomb.yaml").has_errors());
    assert!(lint(&"- ".repeat(100_000), "bomb.yaml").has_errors());
    assert!(lint(&"{a: ".repeat(40), "bomb.yaml").has_errors());
    assert!(lint("a: &a [*a]", "bomb.yaml").to_string().contains("inside what it stands for"));
    let found = lint(&"#".repeat(300 * 1024), "bomb.yaml");
    assert!(found.to_string().contains("at most 262144 are read"), "{found}");
    let many = format!("id: a\ntitle: b\nfindings: []\ndiagnose:\n{}", "  - {id: x}\n".repeat(201));
    assert!(lint(&many, "many.yaml").to_string().contains("at most 200 are read"));
    assert!(lint(&many, "many.yaml").len() <= crate::diagnostic::MAX_DIAGNOSTICS);
}

proptest::proptest! {
    #[test]
    fn no_text_brings_the_reader_down(
        place in 0..SMALL.len(),
        length in 0_usize..40,
        put in r#"[a-z0-9:{}\[\]"'&*!|>%@#\n \-é]{0,12}"#,
    ) {
        let end = (place + length).min(SMALL.len());
        let text = format!("{}{put}{}", &SMALL[..place], &SMALL[end..]);
        for diagnostic in &lint(&text, "spoilt.yaml") {
            proptest::prop_assert!(diagnostic.line >= 1 && diagnostic.column >= 1);
            proptest::prop_assert!(!diagnostic.message.contains("broke"), "{}", diagnostic.message);
        }
    }
}
