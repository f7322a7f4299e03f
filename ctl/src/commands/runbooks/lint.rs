//! `vigiectl runbooks lint FILE…`: what is wrong with runbooks, without a controller.

use std::path::{Path, PathBuf};

use serde_json::json;
use vigie_proto::text::escape;
use vigie_runbook::{findings_of, lint_among};
use vigie_transport::credential::read_public;

use crate::{error::Error, exit::Exit, invocation::Invocation, output::look::count};

pub(in crate::commands) fn run(invocation: &mut Invocation, files: &[PathBuf]) -> Result<Exit, Error> {
    let mut documents = Vec::new();
    let mut wrong = false;
    let texts: Vec<_> = files.iter().map(|path| read_public(path)).collect::<Result<_, _>>()?;
    // Runbooks may speak of each other's findings.
    let others = findings_of(texts.iter().map(|text| text.as_str()));
    for (path, text) in files.iter().zip(&texts) {
        let name = shown(path);
        let found = lint_among(text, &name, &others);
        wrong |= found.has_errors();
        let output = &mut invocation.output;
        if !output.format.is_text() {
            let messages = found.iter().map(|found| {
                json!({
                    "severity": found.severity.word(),
                    "line": found.line,
                    "column": found.column,
                    "message": found.message,
                    "hint": found.hint,
                })
            });
            let messages: Vec<_> = messages.collect();
            documents.push(json!({ "file": name, "ok": !found.has_errors(), "diagnostics": messages }));
            continue;
        }
        let look = output.look.clone();
        if found.is_empty() {
            output.text(&format!("{} {}", look.green("✓"), escape(&name, false)))?;
        } else {
            let mark = if found.has_errors() { look.red("✗") } else { look.yellow("!") };
            let lines = escape(&found.to_string(), true).into_owned();
            output.text(&format!(
                "{mark} {}: {}\n{lines}",
                escape(&name, false),
                count(found.len(), "remark")
            ))?;
        }
    }
    if !invocation.output.format.is_text() {
        invocation.output.document(&json!({ "files": documents }), "files")?;
    }
    Ok(if wrong { Exit::Failed } else { Exit::Ok })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
