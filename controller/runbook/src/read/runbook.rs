//! The runbook as a whole: its parts in their order, then what has to hold between them.

use std::collections::BTreeSet;

use regex::Regex;
use vigie_proto::operation::Effect;

use super::{
    Content, Entries, Node, Reader, Span,
    probes::{self, Context},
    steps, tree, unknown_ids,
};
use crate::{
    diagnostic::{Diagnostic, Severity, suggest},
    model::{
        Check, Finding, FindingSeverity, Others, Probe, Remedy, Restore, Risk, Runbook, Scope, Step, Symptom,
    },
    parameters::{Parameter, ParameterType, Values},
    rollout::{Batch, Rollout},
    rules::{Names, Rule, Template},
};

/// What stands for a runbook that could not even be looked at.
pub(crate) fn unreadable(why: String) -> Diagnostic {
    Diagnostic { line: 1, column: 1, severity: Severity::Error, message: why, hint: String::new() }
}

/// Reads everything that can be read, and collects what is wrong. The text and its digest are the caller's to add.
pub(crate) fn runbook(text: &str, others: Option<&Others>) -> (Option<Runbook>, Vec<Diagnostic>) {
    let root = match tree::parse(text) {
        Ok(root) => root,
        Err(diagnostic) => return (None, vec![diagnostic]),
    };
    let mut reader = Reader { others, ..Reader::new(text) };
    let runbook = parts(&root, &mut reader);
    (runbook, reader.finish())
}

/// Where things stand, for what can only be said at the end.
#[derive(Default)]
struct Places {
    probes: Vec<Span>,
    parameters: Vec<Span>,
    findings: Vec<Span>,
}

fn parts(root: &Node, reader: &mut Reader<'_>) -> Option<Runbook> {
    let mut entries = reader.entries(root, "a runbook")?;
    let id = entries.require("id", reader).and_then(|node| runbook_id(node, reader));
    let title = entries.require("title", reader).and_then(|node| reader.string(node, "`title`"));
    let scopes = [("stack", Scope::Stack), ("host", Scope::Host)];
    let scope =
        entries.take("scope").map_or(Some(Scope::Stack), |node| reader.word(node, "`scope`", &scopes));
    let mut places = Places::default();
    let parameters = parameters(&mut entries, &mut places, reader);
    let mut names = Names {
        parameters: parameters.iter().map(|parameter| (parameter.name.clone(), parameter.kind)).collect(),
        ..Names::default()
    };
    let defaults: Values =
        parameters.iter().filter_map(|p| p.default.clone().map(|value| (p.name.clone(), value))).collect();
    let alone = names.clone();
    let context = Context { names: &alone, defaults: &defaults };

    let diagnose = entries.require("diagnose", reader);
    let probes = diagnose.map(|node| probes::probes(node, &context, &mut names, reader)).unwrap_or_default();
    if let Some(Content::List(items)) = diagnose.map(|node| &node.content) {
        places.probes = items.iter().map(|item| item.span).collect();
    }
    definitions(&mut entries, &mut names, reader);
    let symptoms = symptoms(&mut entries, &names, reader);
    let findings = findings(&mut entries, &names, &mut places, reader);
    let mut all_names = names.clone();
    let mut verification = |node: &Node, reader: &mut Reader<'_>| {
        let (verify, found) = probes::verify(node, &context, (&probes, &names), reader);
        all_names.probes.extend(found.probes);
        all_names.unreadable.extend(found.unreadable);
        verify
    };
    let verify_node = entries.take("verify");
    let verify = verify_node.and_then(|node| verification(node, reader));
    let mut remedies = Vec::new();
    for item in entries.take("remedies").map(|node| reader.items(node, "`remedies`")).unwrap_or_default() {
        let remedy = remedy(
            item,
            &context,
            (&probes, &names),
            &findings,
            &mut verification,
            verify_node.is_some(),
            reader,
        );
        if let Some(remedy) = remedy {
            if remedies.iter().any(|known: &Remedy| known.id == remedy.id) {
                reader.error(item.span, format!("there are two remedies `{}`", remedy.id), "");
            }
            remedies.push(remedy);
        }
    }
    let restore = restore(&mut entries, &names, reader);
    let checklist = checklist(&mut entries, &all_names, reader);
    let rollout = rollout(&mut entries, reader);
    entries.close(reader);

    let runbook = Runbook {
        id: id?,
        title: title?,
        scope: scope?,
        parameters,
        symptoms,
        probes,
        findings,
        remedies,
        verify,
        restore,
        checklist,
        rollout,
        text: String::new(),
        digest: [0; 32],
    };
    circles(&runbook, &places, reader);
    // What did not read may be what uses the rest.
    if !reader.has_errors() {
        idle(&runbook, &places, reader);
    }
    Some(runbook)
}

/// As in `vigiectl run backend-502`.
fn runbook_id(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    let scalar = reader.scalar(node, "`id`")?;
    let id = &scalar.text;
    let formed = id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && id.len() <= 64;
    if !formed {
        let hint = "lower-case letters, digits and `-`, beginning with a letter, at most 64";
        reader.error(scalar.span, format!("`{id}` is no id"), hint);
    }
    formed.then(|| id.clone())
}

fn parameters(entries: &mut Entries<'_>, places: &mut Places, reader: &mut Reader<'_>) -> Vec<Parameter> {
    let Some(node) = entries.take("parameters") else { return Vec::new() };
    let Content::Map(declared) = &node.content else {
        reader.error(
            node.span,
            format!("`parameters` is a mapping, not {}", node.kind()),
            "`name: { type: string }`",
        );
        return Vec::new();
    };
    let mut parameters = Vec::new();
    for (name, node) in declared.iter().take(super::MAX_ITEMS) {
        if !reader.is_id(name, "a parameter") {
            continue;
        }
        let Some(mut entries) = reader.entries(node, "a parameter") else { continue };
        let kind =
            entries.require("type", reader).and_then(|n| reader.word(n, "`type`", ParameterType::WORDS));
        let help = entries.take("help").and_then(|node| reader.string(node, "`help`")).unwrap_or_default();
        let pattern = entries.take("pattern").and_then(|node| pattern(node, kind, reader));
        let default = entries.take("default");
        let required = entries.take("required").and_then(|node| reader.boolean(node, "`required`"));
        entries.close(reader);
        if default.is_some() == (required == Some(true)) {
            let message = format!("parameter `{}` has either a default or `required: true`", name.text);
            reader.error(name.span, message, "");
        }
        let Some(kind) = kind else { continue };
        let mut parameter = Parameter { name: name.text.clone(), kind, default: None, help, pattern };
        if let Some(scalar) = default.and_then(|node| reader.scalar(node, "`default`")) {
            match parameter.parse(&scalar.text) {
                Ok(value) => parameter.default = Some(value),
                Err(reason) => reader.error(scalar.span, format!("the default: {reason}"), ""),
            }
        }
        parameters.push(parameter);
        places.parameters.push(name.span);
    }
    parameters
}

fn pattern(node: &Node, kind: Option<ParameterType>, reader: &mut Reader<'_>) -> Option<Regex> {
    let scalar = reader.scalar(node, "`pattern`")?;
    if kind.is_some_and(|kind| kind != ParameterType::Text) {
        reader.error(scalar.span, "only a string has a pattern", "");
    }
    match Regex::new(&format!("^(?:{})$", scalar.text)) {
        Ok(regex) => Some(regex),
        Err(_) => {
            reader.error(scalar.span, "this is no regular expression", "");
            None
        }
    }
}

/// Names for expressions; each may use those above it.
fn definitions(entries: &mut Entries<'_>, names: &mut Names, reader: &mut Reader<'_>) {
    let Some(node) = entries.take("define") else { return };
    let Content::Map(defined) = &node.content else {
        reader.error(node.span, format!("`define` is a mapping, not {}", node.kind()), "`name: expression`");
        return;
    };
    for (name, node) in defined.iter().take(super::MAX_ITEMS) {
        let taken = names.probes.contains_key(&name.text);
        if taken {
            reader.error(name.span, format!("`{}` is a probe already", name.text), "take another name");
        }
        if reader.is_id(name, "a definition") && !taken {
            match Rule::define(node, names, reader) {
                Some(definition) => _ = names.definitions.insert(name.text.clone(), definition),
                None => _ = names.unreadable.insert(name.text.clone()),
            }
        }
    }
}

/// How bad it is; critical when nothing is said.
fn severity(entries: &mut Entries<'_>, reader: &mut Reader<'_>) -> Option<FindingSeverity> {
    entries.take("severity").map_or(Some(FindingSeverity::Critical), |node| {
        reader.word(node, "`severity`", FindingSeverity::WORDS)
    })
}

fn symptoms(entries: &mut Entries<'_>, names: &Names, reader: &mut Reader<'_>) -> Vec<Symptom> {
    let Some(node) = entries.take("symptoms") else { return Vec::new() };
    let mut symptoms = Vec::new();
    for item in reader.items(node, "`symptoms`") {
        let Some(mut entries) = reader.entries(item, "a symptom") else { continue };
        let when = entries.require("when", reader).and_then(|node| Rule::read(node, "`when`", names, reader));
        let says =
            entries.require("says", reader).and_then(|node| Template::read(node, "`says`", names, reader));
        let severity = severity(&mut entries, reader);
        entries.close(reader);
        if let (Some(severity), Some(when), Some(says)) = (severity, when, says) {
            symptoms.push(Symptom { severity, when, says });
        }
    }
    symptoms
}

fn findings(
    entries: &mut Entries<'_>,
    names: &Names,
    places: &mut Places,
    reader: &mut Reader<'_>,
) -> Vec<Finding> {
    let Some(node) = entries.require("findings", reader) else { return Vec::new() };
    let mut findings: Vec<Finding> = Vec::new();
    let mut explained = Vec::new();
    for item in reader.items(node, "`findings`") {
        let Some(mut entries) = reader.entries(item, "a finding") else { continue };
        let id = entries.require("id", reader).and_then(|node| reader.id(node, "a finding"));
        let title = entries.require("title", reader).and_then(|node| reader.string(node, "`title`"));
        let severity = severity(&mut entries, reader);
        let when = entries.require("when", reader).and_then(|node| Rule::read(node, "`when`", names, reader));
        let says =
            entries.require("says", reader).and_then(|node| Template::read(node, "`says`", names, reader));
        let advise = entries.take("advise").map(|node| Template::read(node, "`advise`", names, reader));
        let explains =
            entries.take("explains").map(|node| reader.ids(node, "`explains`")).unwrap_or_default();
        let evidence =
            entries.take("evidence").map(|node| reader.items(node, "`evidence`")).unwrap_or_default();
        let evidence =
            evidence.iter().filter_map(|node| Rule::read_any(node, "evidence", names, reader)).collect();
        entries.close(reader);
        let (Some(id), Some(title), Some(severity), Some(when), Some(says)) =
            (id, title, severity, when, says)
        else {
            continue;
        };
        if findings.iter().any(|known| known.id == id) {
            reader.error(item.span, format!("there are two findings `{id}`"), "");
        }
        let ids = explains.iter().map(|(id, _)| id.clone()).collect();
        let (foreign, explains): (Vec<_>, Vec<_>) =
            explains.into_iter().partition(|(id, _)| id.contains('.'));
        foreign.iter().for_each(|(reference, span)| elsewhere(reference, *span, reader));
        findings.push(Finding {
            id,
            title,
            severity,
            when,
            says,
            advise: advise.flatten(),
            explains: ids,
            evidence,
        });
        explained.extend(explains);
        places.findings.push(item.span);
    }
    // Findings may explain those below them, and one that did not read is not unknown as well.
    if findings.len() == reader_items(node) {
        unknown_ids(&explained, || findings.iter().map(|finding| &finding.id), "a finding", reader);
    }
    findings
}

/// A finding of another runbook, `runbook.finding` or `runbook.*`, as far as the other runbooks are known.
fn elsewhere(reference: &str, span: Span, reader: &mut Reader<'_>) {
    let Some(others) = reader.others else { return };
    let (runbook, finding) = reference.split_once('.').unwrap_or((reference, ""));
    match others.get(runbook) {
        None => {
            let hint = suggest(runbook, others.keys().map(String::as_str));
            reader.error(span, format!("`{reference}`: there is no runbook `{runbook}`"), &hint);
        }
        Some(findings) if finding != "*" && !findings.iter().any(|known| known == finding) => {
            let hint = suggest(finding, findings.iter().map(String::as_str));
            reader.error(span, format!("`{reference}`: `{runbook}` has no finding `{finding}`"), &hint);
        }
        Some(_) => {}
    }
}

fn reader_items(node: &Node) -> usize {
    if let Content::List(items) = &node.content { items.len() } else { 0 }
}

fn remedy(
    node: &Node,
    context: &Context<'_>,
    diagnosis: (&[Probe], &Names),
    findings: &[Finding],
    verification: &mut dyn FnMut(&Node, &mut Reader<'_>) -> Option<crate::model::Verify>,
    common: bool,
    reader: &mut Reader<'_>,
) -> Option<Remedy> {
    let mut entries = reader.entries(node, "a remedy")?;
    let id = entries.require("id", reader).and_then(|node| reader.id(node, "a remedy"));
    let title = entries.require("title", reader).and_then(|node| reader.string(node, "`title`"));
    let risk = entries.require("risk", reader).and_then(|node| reader.word(node, "`risk`", Risk::WORDS));
    let cures = entries.require("for", reader).map(|node| reader.ids(node, "`for`")).unwrap_or_default();
    unknown_ids(&cures, || findings.iter().map(|finding| &finding.id), "a finding", reader);
    let when_node = entries.take("when");
    let when = when_node.map(|node| Rule::read(node, "`when`", diagnosis.1, reader));
    let steps = entries.require("steps", reader).map(|node| {
        if matches!(&node.content, Content::List(items) if items.is_empty()) {
            reader.error(node.span, "a remedy has at least one step", "");
        }
        steps::steps(node, context, diagnosis, reader)
    });
    let own = entries.take("verify");
    let verify = own.map(|node| verification(node, reader));
    entries.close(reader);
    if own.is_none() && !common {
        let hint = "add `verify` to the remedy, or one for all remedies to the runbook";
        reader.error(node.span, "nothing tells whether this remedy worked", hint);
    }
    let remedy = Remedy {
        id: id?,
        title: title?,
        risk: risk?,
        cures: cures.into_iter().map(|(id, _)| id).collect(),
        when: match when {
            Some(when) => Some(when?),
            None => None,
        },
        steps: steps?,
        verify: match verify {
            Some(verify) => Some(verify?),
            None => None,
        },
    };
    // What loses something is proposed for a reason that a rule names, not because a finding is confirmed somehow.
    if let Some(operation) = remedy.operations().find(|operation| operation.effect == Effect::Destroy) {
        let hint = "say in `when` what has to be true before anybody is asked to agree to it";
        match (&remedy.when, when_node) {
            (None, _) => {
                let message = format!("{} loses something, and this remedy has no `when`", operation.name);
                reader.error(node.span, message, hint);
            }
            (Some(when), Some(place)) if when.is_constant() => {
                let message = format!("{} loses something, and this `when` asks for nothing", operation.name);
                reader.error(place.span, message, hint);
            }
            (Some(_), _) => {}
        }
    }
    Some(remedy)
}

fn restore(entries: &mut Entries<'_>, names: &Names, reader: &mut Reader<'_>) -> Vec<Restore> {
    let span = entries.span;
    let Some(node) = entries.take("restore_backup") else {
        let hint = "add `restore_backup: [{ answer: never, why: … }]`";
        reader.warn(span, "the runbook does not say whether a backup should be restored", hint);
        return Vec::new();
    };
    let mut answers: Vec<Restore> = Vec::new();
    let items = reader.items(node, "`restore_backup`");
    for (index, item) in items.iter().enumerate() {
        let Some(mut entries) = reader.entries(item, "an answer") else { continue };
        let words = [("never", "never"), ("maybe", "maybe"), ("yes", "yes")];
        let answer = entries.require("answer", reader).and_then(|node| reader.word(node, "`answer`", &words));
        let when = entries.take("when");
        if when.is_some() == (index + 1 == items.len()) {
            let message = match when {
                Some(_) => "the last answer holds when no other does: it has no `when`",
                None => "only the last answer has no `when`",
            };
            reader.error(item.span, message, "");
        }
        let when = when.map(|node| Rule::read(node, "`when`", names, reader));
        let why =
            entries.require("why", reader).and_then(|node| Template::read(node, "`why`", names, reader));
        entries.close(reader);
        if let (Some(answer), Some(why)) = (answer, why) {
            answers.push(Restore { answer, when: when.flatten(), why });
        }
    }
    answers
}

fn checklist(entries: &mut Entries<'_>, names: &Names, reader: &mut Reader<'_>) -> Vec<Check> {
    let Some(node) = entries.take("checklist") else { return Vec::new() };
    let mut checklist = Vec::new();
    for item in reader.items(node, "`checklist`") {
        let Some(mut entries) = reader.entries(item, "a line of the checklist") else { continue };
        let says = entries.require("says", reader).and_then(|node| reader.string(node, "`says`"));
        let when = entries.take("when").and_then(|node| Rule::read(node, "`when`", names, reader));
        entries.close(reader);
        checklist.extend(says.map(|says| Check { says, when }));
    }
    checklist
}

fn rollout(entries: &mut Entries<'_>, reader: &mut Reader<'_>) -> Rollout {
    let mut rollout = Rollout::default();
    let Some(mut entries) = entries.take("rollout").and_then(|node| reader.entries(node, "`rollout`")) else {
        return rollout;
    };
    if let Some(node) = entries.take("batches") {
        let items = reader.items(node, "`batches`");
        let mut batches = Vec::new();
        for item in items {
            let Some(scalar) = reader.scalar(item, "a batch") else { continue };
            match Batch::parse(&scalar.text) {
                Some(batch) => batches.push(batch),
                None => reader.error(
                    scalar.span,
                    format!("`{}` is no batch", scalar.text),
                    "a number, or a share: 20%",
                ),
            }
        }
        if batches.is_empty() {
            reader.error(node.span, "a rollout has at least one batch", "");
        } else {
            rollout.batches = batches;
        }
    }
    if let Some(scalar) = entries.take("max_failures").and_then(|node| reader.scalar(node, "`max_failures`"))
    {
        match scalar.text.parse() {
            Ok(failures) => rollout.max_failures = failures,
            Err(_) => {
                reader.error(scalar.span, format!("`max_failures` is a number, not `{}`", scalar.text), "");
            }
        }
    }
    if let Some(scalar) = entries.take("budget").and_then(|node| reader.scalar(node, "`budget`")) {
        match scalar.text.parse() {
            Ok(budget) if budget > 0 => rollout.budget = Some(budget),
            _ => reader.error(
                scalar.span,
                format!("`budget` is a number of targets from 1 on, not `{}`", scalar.text),
                "how many targets may be wrong or under way at once",
            ),
        }
    }
    entries.close(reader);
    rollout
}

/// Findings that explain each other in a circle would leave no root cause.
fn circles(runbook: &Runbook, places: &Places, reader: &mut Reader<'_>) {
    for (finding, span) in runbook.findings.iter().zip(&places.findings) {
        let (mut reached, mut ahead) = (BTreeSet::new(), vec![finding]);
        while let Some(next) = ahead.pop() {
            for id in &next.explains {
                if *id == finding.id {
                    let message = format!("`{}` explains itself, by way of `{}`", finding.id, next.id);
                    reader.error(
                        *span,
                        message,
                        "a cause explains its consequences, and they do not explain it",
                    );
                    return;
                }
                if reached.insert(id.as_str()) {
                    ahead.extend(runbook.findings.iter().filter(|known| known.id == *id));
                }
            }
        }
    }
}

/// Warns of what nothing uses, and of findings that leave a person alone.
fn idle(runbook: &Runbook, places: &Places, reader: &mut Reader<'_>) {
    let rules = runbook.findings.iter().flat_map(|f| std::iter::once(&f.when).chain(&f.evidence));
    let rules = rules.chain(runbook.symptoms.iter().map(|symptom| &symptom.when));
    let rules = rules.chain(runbook.remedies.iter().filter_map(|remedy| remedy.when.as_ref()));
    let steps = || runbook.remedies.iter().flat_map(|remedy| &remedy.steps);
    let rules = rules.chain(steps().filter_map(|step| step.when.as_ref()));
    let rules = rules.chain(runbook.restore.iter().filter_map(|restore| restore.when.as_ref()));
    let rules = rules.chain(runbook.checklist.iter().filter_map(|check| check.when.as_ref()));
    let rules = rules.chain(runbook.verifications().map(|verify| &verify.until));
    let templates = runbook.findings.iter().flat_map(|f| std::iter::once(&f.says).chain(&f.advise));
    let templates = templates.chain(runbook.symptoms.iter().map(|symptom| &symptom.says));
    let templates = templates.chain(runbook.restore.iter().map(|restore| &restore.why));
    let templates = templates.chain(steps().filter_map(Step::says));
    let mentioned: Vec<_> =
        rules.map(Rule::mentioned).chain(templates.flat_map(Template::mentioned)).collect();

    for (probe, span) in runbook.probes.iter().zip(&places.probes) {
        let waited_for = runbook.probes.iter().any(|other| other.after.contains(&probe.id));
        // What changed is shown beside the verdict, whatever the rules say.
        let shown = probe.call.operation.name == "host_changes";
        if !waited_for && !shown && !mentioned.iter().any(|mentioned| mentioned.probes.contains(&probe.id)) {
            reader.warn(*span, format!("no rule looks at the probe `{}`", probe.id), "");
        }
    }
    let calls = runbook.probes.iter().chain(runbook.verifications().flat_map(|verify| &verify.probes));
    let calls = calls.map(|probe: &Probe| &probe.call);
    let calls = calls.chain(runbook.remedies.iter().flat_map(Remedy::calls));
    let filled: BTreeSet<&str> = calls.flat_map(|call| call.parameters()).collect();
    for (parameter, span) in runbook.parameters.iter().zip(&places.parameters) {
        let name = parameter.name.as_str();
        if !filled.contains(name) && !mentioned.iter().any(|mentioned| mentioned.parameters.contains(name)) {
            reader.warn(*span, format!("nothing uses the parameter `{name}`"), "");
        }
    }
    for (finding, span) in runbook.findings.iter().zip(&places.findings) {
        let cured = runbook.remedies.iter().any(|remedy| remedy.cures.contains(&finding.id));
        let explained = runbook.findings.iter().any(|other| other.explains.contains(&finding.id));
        if finding.advise.is_none() && !cured && !explained {
            let message = format!("`{}` has neither a remedy nor advice", finding.id);
            reader.warn(*span, message, "say in `advise` what a person should do");
        }
    }
}
