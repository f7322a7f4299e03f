//! `vigiectl runbooks test`: runbooks against their recorded cases, without a controller.
//!
//! A runbook's cases lie beside it, in `cases/ID/`. Reading the files is all that happens here; what a case means is
//! `vigie_runbook::case`'s.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::json;
use vigie_proto::text::escape;
use vigie_runbook::{Runbook, case::Case};
use vigie_transport::credential::read_public;

use crate::{error::Error, exit::Exit, invocation::Invocation, output::look::count};

/// Where runbooks with cases lie when nobody says.
const FOLDERS: [&str; 3] = [".", "runbooks", "deploy/runbooks"];

/// A runbook to test, with the cases that were asked for.
struct Suite {
    runbook: PathBuf,
    /// Every case of the runbook, by its name.
    all: BTreeMap<String, PathBuf>,
    /// The names to test; empty for all.
    only: Vec<String>,
}

pub(in crate::commands) fn run(invocation: &mut Invocation, named: &[String]) -> Result<Exit, Error> {
    let (mut documents, mut failed) = (Vec::new(), false);
    for suite in suites(named)? {
        failed |= test(invocation, &suite, &mut documents)?;
    }
    if !invocation.output.format.is_text() {
        invocation.output.document(&json!({ "cases": documents }), "cases")?;
    }
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

/// Tests one runbook; true when something was not as it should be.
fn test(
    invocation: &mut Invocation,
    suite: &Suite,
    documents: &mut Vec<serde_json::Value>,
) -> Result<bool, Error> {
    let source = shown(&suite.runbook);
    let runbook = match Runbook::parse(&read_public(&suite.runbook)?, &source) {
        Ok(runbook) => runbook,
        Err(found) => {
            say(invocation, &format!("✗ {source}\n{found}"))?;
            documents.push(json!({ "runbook": source, "ok": false, "mismatches": [found.to_string()] }));
            return Ok(true);
        }
    };
    let mut texts = BTreeMap::new();
    for (name, path) in &suite.all {
        texts.insert(name.clone(), read_public(path)?);
    }
    let (mut passed, mut failed, mut confirmed) = (0, 0, Vec::new());
    for (name, text) in texts.iter().filter(|(name, _)| suite.only.is_empty() || suite.only.contains(name)) {
        let path = shown(&suite.all[name]);
        let mismatches = match Case::read(text, &path, &runbook, &|name| texts.get(name).cloned()) {
            Ok(case) => {
                let outcomes = case.check(&runbook);
                confirmed.extend(outcomes.confirmed);
                outcomes.mismatches
            }
            Err(found) => vec![found.to_string()],
        };
        if mismatches.is_empty() {
            passed += 1;
        } else {
            failed += 1;
            let lines: String = mismatches.iter().map(|line| format!("    {line}\n")).collect();
            say(invocation, &format!("✗ {path}\n{lines}"))?;
        }
        documents.push(json!({
            "runbook": runbook.id, "case": name, "file": path,
            "ok": mismatches.is_empty(), "mismatches": mismatches,
        }));
    }
    let mark = if failed == 0 { "✓" } else { "✗" };
    let failures = if failed == 0 { String::new() } else { format!(", {failed} failed") };
    say(invocation, &format!("{mark} {}: {} passed{failures}\n", runbook.id, count(passed, "case")))?;
    let untested: Vec<_> = runbook
        .findings
        .iter()
        .map(|finding| finding.id.as_str())
        .filter(|id| suite.only.is_empty() && !confirmed.iter().any(|confirmed| confirmed == id))
        .collect();
    if !untested.is_empty() {
        say(invocation, &format!("! {}: no case confirms {}\n", runbook.id, untested.join(", ")))?;
    }
    Ok(failed > 0)
}

fn say(invocation: &mut Invocation, text: &str) -> Result<(), Error> {
    let output = &mut invocation.output;
    if !output.format.is_text() {
        return Ok(());
    }
    let look = output.look.clone();
    let text = escape(text, true).into_owned();
    let marked = match text.split_once(' ') {
        Some(("✓", rest)) => format!("{} {rest}", look.green("✓")),
        Some(("✗", rest)) => format!("{} {rest}", look.red("✗")),
        Some(("!", rest)) => format!("{} {rest}", look.yellow("!")),
        _ => text,
    };
    output.text(&marked)
}

/// What is meant by the words on the command line: runbook files, case files, folders of runbooks, or ids.
fn suites(named: &[String]) -> Result<Vec<Suite>, Error> {
    if named.is_empty() {
        let folder = FOLDERS.iter().map(Path::new).find(|folder| folder.join("cases").is_dir());
        let folder = folder.ok_or_else(|| {
            let hint = "name a runbook file, or the folder that holds runbooks and their `cases/`";
            Error::usage("there are no cases here", hint)
        })?;
        return of_folder(folder);
    }
    let mut suites = Vec::new();
    for name in named {
        let path = Path::new(name);
        if path.is_dir() {
            suites.extend(of_folder(path)?);
        } else if is_case(path) {
            suites.push(of_case(path)?);
        } else if path.is_file() {
            suites.push(of_runbook(path)?);
        } else {
            let file = FOLDERS.iter().map(|folder| Path::new(folder).join(format!("{name}.yaml")));
            let file = file.into_iter().find(|file| file.is_file()).ok_or_else(|| {
                let hint = "an id is looked for in `.`, `runbooks/` and `deploy/runbooks/`";
                Error::usage(format!("`{name}` is neither a file nor a runbook here"), hint)
            })?;
            suites.push(of_runbook(&file)?);
        }
    }
    Ok(suites)
}

/// `…/cases/ID/NAME.yaml`.
fn is_case(path: &Path) -> bool {
    let above = path.parent().and_then(Path::parent).and_then(Path::file_name);
    path.is_file() && above.is_some_and(|folder| folder == "cases")
}

fn of_case(path: &Path) -> Result<Suite, Error> {
    let id = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let shelf = path.ancestors().nth(3).unwrap_or(Path::new("."));
    let runbook = shelf.join(format!("{id}.yaml"));
    let only = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Suite { only: vec![only], ..of_runbook(&runbook)? })
}

fn of_folder(folder: &Path) -> Result<Vec<Suite>, Error> {
    yaml_files(folder)?.values().map(|path| of_runbook(path)).collect()
}

fn of_runbook(path: &Path) -> Result<Suite, Error> {
    // The folder of its cases has the runbook's id, which its file is named after.
    let id = path.file_stem().unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new(".")).join("cases").join(id);
    let all = if folder.is_dir() { yaml_files(&folder)? } else { BTreeMap::new() };
    Ok(Suite { runbook: path.to_owned(), all, only: Vec::new() })
}

fn yaml_files(folder: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let unreadable = |source: io::Error| Error::Input(shown(folder), source);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if let Some(stem) = path.file_stem().filter(|_| yaml && path.is_file()) {
            files.insert(stem.to_string_lossy().into_owned(), path.clone());
        }
    }
    Ok(files)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
