//! Every shipped runbook against its recorded cases, as `vigiectl runbooks test` does it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use vigie_runbook::{Runbook, case::Case, shipped};

fn folder(id: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/runbooks/cases").join(id)
}

/// The cases of a runbook by their names.
fn texts(id: &str) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder(id)) else { return BTreeMap::new() };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect()
}

#[test]
fn every_case_comes_out_as_it_says() {
    let mut wrong = Vec::new();
    for (id, text) in shipped() {
        let runbook = Runbook::parse(text, id).unwrap_or_else(|found| panic!("{found}"));
        let texts = texts(id);
        for (name, text) in &texts {
            let source = format!("deploy/runbooks/cases/{id}/{name}.yaml");
            match Case::read(text, &source, &runbook, &|name| texts.get(name).cloned()) {
                Ok(case) => {
                    let mismatches = case.check(&runbook).mismatches;
                    wrong.extend(mismatches.into_iter().map(|mismatch| format!("{source}: {mismatch}")));
                }
                Err(found) => wrong.push(found.to_string()),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_finding_is_confirmed_by_a_case_and_some_case_confirms_none() {
    let mut lacking = Vec::new();
    for (id, text) in shipped() {
        let runbook = Runbook::parse(text, id).unwrap();
        let texts = texts(id);
        let cases = texts.iter().filter_map(|(name, text)| {
            Case::read(text, name, &runbook, &|name| texts.get(name).cloned()).ok()
        });
        let confirmed: Vec<_> = cases.map(|case| case.check(&runbook).confirmed).collect();
        if !confirmed.iter().any(Vec::is_empty) {
            lacking.push(format!("{id}: no case of a host that is well"));
        }
        let confirmed: BTreeSet<_> = confirmed.into_iter().flatten().collect();
        let findings = runbook.findings.iter().filter(|finding| !confirmed.contains(&finding.id));
        lacking.extend(findings.map(|finding| format!("{id}.{}", finding.id)));
    }
    assert!(lacking.is_empty(), "no case confirms\n{}", lacking.join("\n"));
}

#[test]
fn every_remedy_is_offered_in_a_case() {
    let mut lacking = Vec::new();
    for (id, text) in shipped() {
        let runbook = Runbook::parse(text, id).unwrap();
        let texts = texts(id);
        let cases = texts.iter().filter_map(|(name, text)| {
            Case::read(text, name, &runbook, &|name| texts.get(name).cloned()).ok()
        });
        let offered: BTreeSet<_> = cases.flat_map(|case| case.check(&runbook).offered).collect();
        let remedies = runbook.remedies.iter().filter(|remedy| !offered.contains(&remedy.id));
        lacking.extend(remedies.map(|remedy| format!("{id}.{}", remedy.id)));
    }
    assert!(lacking.is_empty(), "no case offers\n{}", lacking.join("\n"));
}
