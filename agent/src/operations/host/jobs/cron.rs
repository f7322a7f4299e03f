//! cron's tables: the system's, those of packages, and those of users.

use std::{
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Datelike as _, Duration, Local, Timelike as _};

const SYSTEM: &str = "/etc/crontab";
const PACKAGES: &str = "/etc/cron.d";
const USERS: [&str; 2] = ["/var/spool/cron/crontabs", "/var/spool/cron"];

/// A table larger than this is none.
const LONGEST: u64 = 256 * 1024;

/// One line of a table that starts something.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in super::super) struct Entry {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    pub schedule: String,
    pub user: String,
    pub command: String,
}

/// Every entry of every table. A table that cannot be read has none.
pub(in super::super) fn entries() -> Vec<Entry> {
    tables()
        .iter()
        .flat_map(|(file, user)| {
            let text = fs::read_to_string(file).unwrap_or_default();
            parse(file, &text, user.as_deref())
        })
        .collect()
}

/// The tables that cron reads, with the user of those that name none.
pub(in super::super) fn tables() -> Vec<(PathBuf, Option<String>)> {
    let mut found = vec![(PathBuf::from(SYSTEM), None)];
    let files = |folder: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        files.sort();
        files
    };
    // cron itself passes over names with other characters, such as those of editors' copies.
    let plain = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    found.extend(files(PACKAGES).into_iter().filter(|path| plain(path)).map(|path| (path, None)));
    for folder in USERS {
        for path in files(folder) {
            let user = path.file_name().map(|name| name.to_string_lossy().into_owned());
            found.push((path, user));
        }
    }
    found.retain(|(path, _)| fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() <= LONGEST));
    found
}

/// `FILE:LINE` in its two parts.
pub(in super::super) fn split(name: &str) -> Option<(&Path, usize)> {
    let (file, line) = name.rsplit_once(':')?;
    Some((Path::new(file), line.parse().ok()?))
}

fn parse(file: &Path, text: &str, user: Option<&str>) -> Vec<Entry> {
    let entry = |(line, text): (usize, &str)| {
        let text = text.trim();
        let first = text.chars().next()?;
        if !(first.is_ascii_digit() || matches!(first, '*' | '@')) {
            return None;
        }
        let mut rest = text;
        let mut take = |count: usize| {
            let mut words = Vec::new();
            for _ in 0..count {
                let (word, after) = rest.split_once(|c: char| c.is_ascii_whitespace())?;
                words.push(word);
                rest = after.trim_start();
            }
            Some(words.join(" "))
        };
        let schedule = take(if first == '@' { 1 } else { 5 })?;
        let user = match user {
            Some(user) => user.to_owned(),
            None => take(1)?,
        };
        let command = rest.trim().to_owned();
        (!command.is_empty()).then(|| Entry { file: file.to_owned(), line, schedule, user, command })
    };
    (1..).zip(text.lines()).filter_map(entry).collect()
}

impl Entry {
    /// As `job_defer` takes it.
    pub(in super::super) fn name(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }

    /// Its next run after a moment, within eight days; `None` for one that is rarer, or runs at boot.
    pub(in super::super) fn next(&self, after: DateTime<Local>) -> Option<DateTime<Local>> {
        let schedule = match self.schedule.as_str() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            other => other,
        };
        let fields: Vec<&str> = schedule.split(' ').collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else { return None };
        let mut at = after.with_second(0)?.with_nanosecond(0)? + Duration::minutes(1);
        let end = after + Duration::days(8);
        while at < end {
            // Where both days are given, either will do.
            let by_day = includes(day, at.day(), 1, 31);
            let by_weekday = includes(weekday, at.weekday().num_days_from_sunday(), 0, 7)
                || (at.weekday().num_days_from_sunday() == 0 && includes(weekday, 7, 0, 7));
            let days = match (day.starts_with('*'), weekday.starts_with('*')) {
                (false, false) => by_day || by_weekday,
                _ => by_day && by_weekday,
            };
            if !days || !includes(month, at.month(), 1, 12) || !includes(hour, at.hour(), 0, 23) {
                at += Duration::minutes(i64::from(60 - at.minute()));
                continue;
            }
            if includes(minute, at.minute(), 0, 59) {
                return Some(at);
            }
            at += Duration::minutes(1);
        }
        None
    }
}

/// Whether a field such as `*/5`, `1-5,30` or `mon` names a number.
fn includes(field: &str, value: u32, least: u32, greatest: u32) -> bool {
    const NAMES: [&str; 19] = [
        "sun", "mon", "tue", "wed", "thu", "fri", "sat", "jan", "feb", "mar", "apr", "may", "jun", "jul",
        "aug", "sep", "oct", "nov", "dec",
    ];
    let number = |text: &str| {
        text.parse::<u32>().ok().or_else(|| {
            let at = NAMES.iter().position(|name| text.eq_ignore_ascii_case(name))?;
            u32::try_from(if at < 7 { at } else { at - 6 }).ok()
        })
    };
    field.split(',').any(|part| {
        let (range, step) =
            part.split_once('/').map_or((part, 1), |(range, step)| (range, step.parse().unwrap_or(1)));
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, greatest),
            Some((from, to)) => (number(from).unwrap_or(u32::MAX), number(to).unwrap_or(0)),
            None => {
                let from = number(range).unwrap_or(u32::MAX);
                (from, if part.contains('/') { greatest } else { from })
            }
        };
        (from..=to).contains(&value) && (value - from).is_multiple_of(step.max(1))
    })
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::*;

    #[test]
    fn tables_of_packages_and_of_users() {
        let text = "SHELL=/bin/sh\n# a comment\n5-55/10 * * * * root command -v debian-sa1 > /dev/null\n\
                    @daily  backup  /srv/backup.sh --all\n*/5 * * *\n";
        let found = parse(Path::new("/etc/cron.d/sysstat"), text, None);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].name(), "/etc/cron.d/sysstat:3");
        assert_eq!((found[0].user.as_str(), found[0].schedule.as_str()), ("root", "5-55/10 * * * *"));
        assert_eq!((found[1].user.as_str(), found[1].command.as_str()), ("backup", "/srv/backup.sh --all"));
        let own = parse(Path::new("/var/spool/cron/crontabs/ada"), "15 3 * * * /srv/dump.sh\n", Some("ada"));
        assert_eq!((own[0].user.as_str(), own[0].command.as_str()), ("ada", "/srv/dump.sh"));
        assert_eq!(split("/etc/cron.d/sysstat:3"), Some((Path::new("/etc/cron.d/sysstat"), 3)));
        assert_eq!(split("backup.timer"), None);
    }

    #[test]
    fn the_next_run() {
        let entry = |schedule: &str| Entry {
            file: PathBuf::new(),
            line: 1,
            schedule: schedule.to_owned(),
            user: String::new(),
            command: String::new(),
        };
        // A Wednesday.
        let now = Local.with_ymd_and_hms(2026, 11, 25, 3, 7, 30).unwrap();
        let next = |schedule: &str| entry(schedule).next(now).map(|at| at.format("%a %H:%M").to_string());
        assert_eq!(next("*/5 * * * *").as_deref(), Some("Wed 03:10"));
        assert_eq!(next("5-55/10 * * * *").as_deref(), Some("Wed 03:15"));
        assert_eq!(next("15 3 * * *").as_deref(), Some("Wed 03:15"));
        assert_eq!(next("0 0 * * sun").as_deref(), Some("Sun 00:00"));
        assert_eq!(next("0 0 * * 7").as_deref(), Some("Sun 00:00"));
        assert_eq!(next("@hourly").as_deref(), Some("Wed 04:00"));
        assert_eq!(next("0 0 1 1 *"), None);
        assert_eq!(next("@reboot"), None);
    }
}
