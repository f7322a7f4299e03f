//! What the server's log says went wrong, by kind and by time, and whether a start has overcome it since.

mod kinds;
mod line;
mod sources;

use std::collections::VecDeque;

use vigie_proto::v1::{PostgresLogSign, PostgresLogSignsRequest, PostgresLogSignsResult};

use super::server;
use crate::operations::{Context, Fault, text};
use line::{Level, Line};
use sources::Written;

/// Lines when the request does not say.
const LINES: u32 = 3000;
/// How many of the last lines of severity FATAL and PANIC are told.
const FATAL: usize = 10;
/// How many lines behind the one that begins an entry may still belong to it: others write in between.
const ENTRY: usize = 16;

/// Finds signs.
pub(in crate::operations) async fn log_signs(
    request: PostgresLogSignsRequest,
    cx: &Context,
) -> Result<PostgresLogSignsResult, Fault> {
    let Some(server) = server(cx, &request.stack, &request.service).await? else {
        return Ok(PostgresLogSignsResult::default());
    };
    let wanted = if request.lines == 0 { LINES } else { request.lines };
    let mut log = match &server.container {
        Some(container) => sources::of_container(container, wanted, cx).await?,
        // The log of what is not there went with it, and says nothing of the data that stayed.
        None if server.is_service() => {
            return Ok(PostgresLogSignsResult { service: server.service, ..Default::default() });
        }
        None => sources::of_host(&server, wanted, cx).await?,
    };
    in_order(&mut log.lines);
    let mut result = read(&log.lines);
    for sign in &mut result.signs {
        sign.line = text::text_up_to(&cx.host, &sign.line, 500);
    }
    result.last_fatal = text::lines(&cx.host, &result.last_fatal);
    Ok(PostgresLogSignsResult {
        service: server.service,
        source: log.source.to_owned(),
        truncated: log.truncated,
        ..result
    })
}

/// By time, each line without one staying behind the line before it: sources are merged, and the engine's two streams are.
fn in_order(lines: &mut [Written]) {
    let mut at = 0;
    for line in lines.iter_mut() {
        if line.at == 0 {
            line.at = at;
        }
        at = line.at;
    }
    lines.sort_by_key(|line| line.at);
}

/// What a line says of the server's own life.
enum Life {
    Starts,
    Ready,
    Ends,
}

fn life(line: &Line<'_>) -> Option<Life> {
    if line.level != Level::Log {
        return None;
    }
    let says = |words: &str| line.message.starts_with(words);
    if says("database system is ready to accept") {
        Some(Life::Ready)
    } else if says("starting PostgreSQL") {
        Some(Life::Starts)
    } else if says("database system is shut down") || says("aborting startup due to") {
        Some(Life::Ends)
    } else {
        None
    }
}

/// The signs, as the lines have them: nothing is redacted yet.
fn read(lines: &[Written]) -> PostgresLogSignsResult {
    let mut result = PostgresLogSignsResult {
        present: true,
        lines: u32::try_from(lines.len()).unwrap_or(u32::MAX),
        ..PostgresLogSignsResult::default()
    };
    let mut fatal: VecDeque<&str> = VecDeque::new();
    for (index, written) in lines.iter().enumerate() {
        let (at, text) = (written.at, written.text.as_str());
        let Some(line) = Line::of(text) else { continue };
        match life(&line) {
            Some(Life::Ready) => {
                (result.ready, result.ready_at_ms) = (true, at);
                result.signs.iter_mut().for_each(|sign| sign.current = false);
            }
            Some(Life::Starts) => (result.ready, result.starts) = (false, result.starts + 1),
            Some(Life::Ends) => result.ready = false,
            None => {}
        }
        if matches!(line.level, Level::Panic | Level::Fatal) && !line.doubtful {
            fatal.push_back(text);
            if fatal.len() > FATAL {
                fatal.pop_front();
            }
        }
        let found = if line.level.begins() {
            kinds::signs_of(&line, &rest_of(&line, &lines[index + 1..]))
        } else {
            kinds::signs_of_part(&line).into_iter().collect()
        };
        for sign in found {
            count(&mut result.signs, sign, at, text);
        }
    }
    result.last_fatal = fatal.into_iter().map(str::to_owned).collect();
    result
}

/// The other lines of an entry: those of its process up to where that begins another one. What is written before the
/// server logs has no process, and its next lines no severity.
fn rest_of<'a>(first: &Line<'_>, behind: &'a [Written]) -> Vec<&'a str> {
    let behind = behind.iter().take(ENTRY).map(|written| written.text.as_str());
    if first.level == Level::Raw {
        return behind.take_while(|text| Line::of(text).is_none()).collect();
    }
    let own = behind.filter(|text| Line::of(text).is_some_and(|line| line.process == first.process));
    own.take_while(|text| Line::of(text).is_some_and(|line| !line.level.begins())).collect()
}

fn count(signs: &mut Vec<PostgresLogSign>, name: &str, at: i64, line: &str) {
    let at_sign = signs.iter().position(|sign| sign.sign == name).unwrap_or_else(|| {
        signs.push(PostgresLogSign { sign: name.to_owned(), first_at_ms: at, ..PostgresLogSign::default() });
        signs.len() - 1
    });
    let sign = &mut signs[at_sign];
    sign.count += 1;
    sign.last_at_ms = at.max(sign.last_at_ms);
    line.clone_into(&mut sign.line);
    sign.current = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured from PostgreSQL 15.20 in a container whose write-ahead log was zeroed.
    const PANIC: &str = include_str!("fixtures/log-panic.txt");
    /// The same after a start with a setting that it does not take.
    const CONFIG: &str = include_str!("fixtures/log-config.txt");
    /// A page of a table was damaged on disk while the server was stopped.
    const PAGE: &str = include_str!("fixtures/log-page.txt");

    /// Clients of PostgreSQL 15.18 whose mistakes read like damage.
    const CLIENTS: &str = include_str!("fixtures/log-clients.txt");

    fn of(log: &str) -> PostgresLogSignsResult {
        let mut lines: Vec<Written> = log.lines().map(|line| Written::of(0, line)).collect();
        in_order(&mut lines);
        read(&lines)
    }

    fn current(found: &PostgresLogSignsResult) -> Vec<&str> {
        found.signs.iter().filter(|sign| sign.current).map(|sign| sign.sign.as_str()).collect()
    }

    #[test]
    fn a_panic_at_every_start() {
        let found = of(PANIC);
        let current = current(&found);
        assert!(current.contains(&"panic") && current.contains(&"corruption") && !found.ready, "{found:?}");
        let panic = found.signs.iter().find(|sign| sign.sign == "panic").unwrap();
        assert!(
            panic.count >= 2 && panic.first_at_ms > 0 && panic.last_at_ms > panic.first_at_ms,
            "{panic:?}"
        );
        assert!(panic.line.contains("could not locate a valid checkpoint record"));
        assert!(found.last_fatal.iter().any(|line| line.contains("PANIC:  ")));
    }

    #[test]
    fn a_configuration_that_does_not_hold() {
        let found = of(CONFIG);
        assert_eq!(current(&found), ["config_error"], "{found:?}");
        assert!(!found.ready);
    }

    #[test]
    fn a_damaged_page_while_all_else_is_well() {
        let found = of(PAGE);
        assert_eq!(current(&found), ["corruption"], "{found:?}");
        assert!(found.ready && found.starts == 1);
        // A start makes it history, and not well.
        let again = format!(
            "{PAGE}2026-11-25 03:20:05.001 UTC [1] LOG:  database system is ready to accept connections\n"
        );
        let found = of(&again);
        assert!(current(&found).is_empty() && found.signs.iter().any(|sign| sign.sign == "corruption"));
    }

    #[test]
    fn clocks_of_other_zones_are_the_engines() {
        let line =
            "2026-11-25 04:18:28.098 CET [35] ERROR:  invalid page in block 3 of relation base/16384/33015";
        assert_eq!(Written::of(1_795_576_708_098, line).at, 1_795_576_708_098);
        let utc = "2026-11-25 03:18:28.098 UTC [35] LOG:  x";
        assert_eq!(Written::of(1_795_576_708_999, utc).at, 1_795_576_708_098, "its own clock is nearer");
    }

    #[test]
    fn what_clients_say_is_no_damage() {
        let found = of(CLIENTS);
        assert!(found.signs.is_empty() && found.ready && found.last_fatal.is_empty(), "{found:?}");
        // With the prefix that Debian's packages set.
        let debian = CLIENTS.replace("[10827] ", "[10827] app@shop ");
        let found = of(&debian);
        assert!(found.signs.is_empty() && found.last_fatal.is_empty(), "{found:?}");
    }

    #[test]
    fn a_function_cannot_make_a_server_look_damaged() {
        let found =
            of("2026-11-25 03:18:22.071 UTC [1] LOG:  database system is ready to accept connections\n\
             2026-11-25 03:18:28.098 UTC [35] ERROR:  invalid page in block 3 of relation base/16384/33015\n\
             2026-11-25 03:18:28.098 UTC [36] LOG:  checkpoint starting: time\n\
             2026-11-25 03:18:28.098 UTC [35] CONTEXT:  PL/pgSQL function inline_code_block line 1 at RAISE\n\
             2026-11-25 03:18:28.098 UTC [35] STATEMENT:  DO $$ BEGIN RAISE 'PANIC:  x'; END $$\n\
             \tPANIC:  corrupt\n\
             2026-11-25 03:18:29.098 UTC [35] ERROR:  database system is shut down\n");
        assert!(found.signs.is_empty() && found.ready && found.last_fatal.is_empty(), "{found:?}");
    }
}
