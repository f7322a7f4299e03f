//! How things are shown: colour, width, clock, and the words for sizes and times.
//!
//! Views take a [`Look`] and give text; they ask neither the terminal nor the clock themselves, so that the same
//! events always give the same text.

use chrono::{DateTime, FixedOffset, Local, TimeZone as _};

/// Everything about the reader that a view depends on.
#[derive(Debug, Clone)]
pub struct Look {
    pub colour: bool,
    /// Columns to fill; what is data is never cut to fit.
    pub width: usize,
    /// Shows ids and less-used columns too.
    pub wide: bool,
    pub now_ms: i64,
    /// The offset in which times are shown; `None` for the machine's own.
    pub zone: Option<FixedOffset>,
}

impl Look {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    pub fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    pub fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    pub fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn yellow(&self, text: &str) -> String {
        self.paint("33", text)
    }

    pub fn cyan(&self, text: &str) -> String {
        self.paint("36", text)
    }

    /// `2026-11-23 14:02:11 +01:00`, or what stands for a time that never was.
    pub fn time(&self, at_ms: i64) -> String {
        self.format(at_ms, "%Y-%m-%d %H:%M:%S %:z")
    }

    /// `14:02:11`.
    pub fn clock(&self, at_ms: i64) -> String {
        self.format(at_ms, "%H:%M:%S")
    }

    fn format(&self, at_ms: i64, format: &str) -> String {
        let Some(utc) = DateTime::from_timestamp_millis(at_ms).filter(|_| at_ms != 0) else {
            return "never".to_owned();
        };
        match self.zone {
            None => Local.from_utc_datetime(&utc.naive_utc()).format(format).to_string(),
            Some(offset) => offset.from_utc_datetime(&utc.naive_utc()).format(format).to_string(),
        }
    }

    /// How long ago: `3 h`; `never` for 0.
    pub fn ago(&self, at_ms: i64) -> String {
        match at_ms {
            0 => "never".to_owned(),
            _ => duration_ms((self.now_ms - at_ms).max(0)),
        }
    }
}

/// `840 ms`, `3.2 s`, `4 min 5 s`, `3 h 12 min`, `9 d 4 h`.
pub fn duration_ms(ms: i64) -> String {
    let seconds = ms / 1000;
    let two = |big: i64, unit: &str, small: i64, sub: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {sub}"),
    };
    match seconds {
        ..1 => format!("{ms} ms"),
        1..60 if seconds < 10 => format!("{}.{} s", seconds, ms % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// `512 B`, `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Rounding shows at most one decimal; the precision lost beyond 2^53 is none that a person sees.
    #[allow(clippy::cast_precision_loss)]
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 host`, `2 hosts`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// How many columns a text takes: escapes that colour take none.
pub fn columns(text: &str) -> usize {
    let mut columns = 0;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c == '\u{1b}' {
            characters.by_ref().find(|c| *c == 'm');
        } else {
            columns += 1;
        }
    }
    columns
}

/// Fills a text with spaces to a width.
pub fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

#[cfg(any(test, feature = "fixtures"))]
impl Look {
    /// Without colour, in UTC+1, at a fixed time.
    pub fn plain() -> Self {
        Self {
            colour: false,
            width: 100,
            wide: false,
            now_ms: 1_700_000_600_000,
            zone: FixedOffset::east_opt(3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_well() {
        let durations =
            [0, 840, 1000, 3_250, 59_999, 60_000, 245_000, 11_520_000, 792_000_000].map(duration_ms);
        assert_eq!(
            durations,
            ["0 ms", "840 ms", "1.0 s", "3.2 s", "59 s", "1 min", "4 min 5 s", "3 h 12 min", "9 d 4 h"]
        );
        assert_eq!(
            [0, 1023, 1024, 1_610_612_736, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "16384.0 PiB"]
        );
    }

    #[test]
    fn times_carry_their_offset() {
        let look = Look::plain();
        assert_eq!(look.time(1_700_000_000_000), "2023-11-14 23:13:20 +01:00");
        assert_eq!(look.ago(1_700_000_000_000), "10 min");
        assert_eq!(look.time(0), "never");
    }

    #[test]
    fn colour_takes_no_columns() {
        let look = Look { colour: true, ..Look::plain() };
        assert_eq!(columns(&look.red("é!")), 2);
        assert_eq!(pad(&look.bold("ab"), 4), "\u{1b}[1mab\u{1b}[0m  ");
    }
}
