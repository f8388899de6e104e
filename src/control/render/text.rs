//! Escaping, colours, columns, times and amounts.

use std::env;
use std::fmt::{self, Write};
use std::io::IsTerminal;

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Never,
    /// ANSI escape sequences of ECMA-48, the sixteen colours alone, so that the terminal's own theme holds.
    Ansi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Green,
    Red,
    Yellow,
    Bold,
    Dim,
}

impl Colour {
    /// Colours when the stream is a terminal that has them and nobody said no (<https://no-color.org>).
    #[must_use]
    pub fn of(stream: &impl IsTerminal) -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let plain = env::var_os("TERM").is_some_and(|term| term == "dumb");
        if stream.is_terminal() && !unwanted && !plain { Self::Ansi } else { Self::Never }
    }

    pub(super) fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Green => "32",
            Paint::Red => "31",
            Paint::Yellow => "33",
            Paint::Bold => "1",
            Paint::Dim => "2",
        };
        match self {
            Self::Never => text.to_owned(),
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    pub(super) fn verdict(self, verdict: &str, width: usize) -> String {
        let padded = format!("{:width$}", escape(verdict).to_string());
        match verdict {
            "accept" => self.paint(Paint::Green, &padded),
            "block" | "drop" => self.paint(Paint::Red, &padded),
            "ask" => self.paint(Paint::Yellow, &padded),
            _ => padded,
        }
    }
}

/// Shows `text` without control characters, direction overrides, invisible characters and odd spaces: each of them appears as
/// `\u{…}`, a backslash as two.
#[must_use]
pub fn escape(text: &str) -> Escaped<'_> {
    Escaped(text)
}

/// See [`escape`].
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                // They are harmless here, and names in quotes are common.
                '\'' | '"' => f.write_char(c)?,
                _ => write!(f, "{}", c.escape_debug())?,
            }
        }
        Ok(())
    }
}

/// At most `width` characters of `text`, the end of it kept: the end of a path or a name says more than its beginning.
pub(super) fn tail(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(2);
    format!("..{}", text.chars().skip(length - kept).collect::<String>())
}

/// The program's short name: the last part of its path.
pub(super) fn program(exe: Option<&str>) -> String {
    let Some(exe) = exe else { return "?".to_owned() };
    let short = exe.rsplit('/').find(|part| !part.is_empty()).unwrap_or(exe);
    escape(short).to_string()
}

/// `HH:MM:SS` in the local time zone.
pub(super) fn clock(ms: u64) -> String {
    local(ms).map_or_else(|| "--:--:--".to_owned(), |time| time.strftime("%H:%M:%S").to_string())
}

/// Date and time in the local time zone.
pub(super) fn date(ms: u64) -> String {
    local(ms).map_or_else(|| "?".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

fn local(ms: u64) -> Option<jiff::Zoned> {
    let timestamp = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(timestamp.to_zoned(jiff::tz::TimeZone::system()))
}

/// Bytes in decimal units with three digits.
pub(super) fn amount(bytes: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    for (size, unit) in units {
        if bytes >= size {
            let tenths = bytes / (size / 10);
            return if tenths >= 1000 {
                format!("{} {unit}", tenths / 10)
            } else {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes} B")
}

/// "3 s", "5 min", "2 h", "4 d".
pub(super) fn span(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// "1 flow", "2 flows".
pub(super) fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Rows as columns, each as wide as its widest cell; the last is not padded. Cells are plain text, colours come after.
pub(super) fn widths<const N: usize>(rows: &[[String; N]]) -> [usize; N] {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_deceive_a_reader_is_escaped() {
        for (raw, shown) in [
            ("example.com", "example.com"),
            ("Müller & Söhne's \"tool\"", "Müller & Söhne's \"tool\""),
            ("gpj.\u{202e}exe", "gpj.\\u{202e}exe"),
            ("a\u{2066}b\u{2069}", "a\\u{2066}b\\u{2069}"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("\x1b[31mred\x07", "\\u{1b}[31mred\\u{7}"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("hard\u{a0}space", "hard\\u{a0}space"),
            ("back\\slash", "back\\\\slash"),
            ("c1\u{9b}31m", "c1\\u{9b}31m"),
        ] {
            assert_eq!(escape(raw).to_string(), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_in_stays_on_its_line_and_in_its_direction(raw in "\\PC*|.*") {
            let shown = escape(&raw).to_string();
            let tricks = |c: char| {
                c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
            };
            proptest::prop_assert!(!shown.chars().any(tricks), "{shown:?}");
        }
    }

    #[test]
    fn amounts_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (99_949, "99.9 kB"),
            (104_857_600, "104 MB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(amount(bytes), text);
        }
    }

    #[test]
    fn long_texts_keep_their_end() {
        assert_eq!(tail("short", 8), "short");
        assert_eq!(tail("cdn.example.com", 10), "..mple.com");
    }

    #[test]
    fn times_that_no_calendar_has_do_not_panic() {
        assert_eq!(clock(u64::MAX), "--:--:--");
        assert_eq!(date(u64::MAX), "?");
        assert_eq!(span(u64::MAX).split(' ').nth(1), Some("d"));
    }

    #[test]
    fn programs_are_named_by_the_end_of_their_path() {
        for (exe, name) in [(Some("/usr/bin/curl"), "curl"), (Some("python:x.py"), "python:x.py"), (Some("/"), "/"), (None, "?")]
        {
            assert_eq!(program(exe), name);
        }
        assert_eq!(program(Some("/tmp/a\u{202e}b")), "a\\u{202e}b");
    }
}
