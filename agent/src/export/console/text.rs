//! Texts that fit and do no harm, and colours.

use crate::signal::Kind;

/// Most services that get a colour of their own choice; further ones share the first.
const MAX_SERVICES: usize = 256;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Of no special importance.
    Plain,
    /// Of less.
    Dim,
    /// A heading.
    Bold,
    /// A failure.
    Bad,
    /// Of the service with this number.
    Service(usize),
}

/// Colours, if wanted, and which service has which.
#[derive(Debug)]
pub(super) struct Paint {
    color: bool,
    services: Vec<String>,
}

impl Paint {
    pub(super) fn new(color: bool) -> Self {
        Self { color, services: Vec::new() }
    }

    /// The style of a service, the same each time.
    pub(super) fn service(&mut self, name: &str) -> Style {
        let known = self.services.iter().position(|service| service == name);
        Style::Service(known.unwrap_or_else(|| {
            if self.services.len() >= MAX_SERVICES {
                return 0;
            }
            self.services.push(name.to_owned());
            self.services.len() - 1
        }))
    }

    /// Appends the text in the style. The text must be clean.
    pub(super) fn put(&self, out: &mut String, style: Style, text: &str) {
        // Cyan, green, yellow, magenta, blue, and their bright sisters; red is for failures.
        const SERVICES: [&str; 10] = ["36", "32", "33", "35", "34", "96", "92", "93", "95", "94"];
        let code = match style {
            Style::Plain => "",
            Style::Dim => "2",
            Style::Bold => "1",
            Style::Bad => "1;31",
            Style::Service(number) => SERVICES[number % SERVICES.len()],
        };
        if !self.color || code.is_empty() || text.trim().is_empty() {
            out.push_str(text);
        } else {
            out.extend(["\u{1b}[", code, "m", text, "\u{1b}[0m"]);
        }
    }
}

/// The text on one line and without anything that could steer a terminal: white space becomes one space, control and
/// direction characters a dot.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            c if c.is_whitespace() => {
                if !clean.ends_with(' ') {
                    clean.push(' ');
                }
            }
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => clean.push('·'),
            c if c.is_control() => clean.push('·'),
            c => clean.push(c),
        }
    }
    clean
}

/// Columns that the character takes on a terminal: two for East Asian wide ones and emoji (Unicode Standard Annex 11,
/// by blocks), none for those that combine.
fn columns(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}'
        | '\u{200b}'..='\u{200d}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// Columns that the text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// The text in at most so many columns, with an ellipsis where it was longer.
pub(super) fn cut(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut used = 1;
    let mut cut: String = text
        .chars()
        .take_while(|c| {
            used += columns(*c);
            used <= most
        })
        .collect();
    cut.truncate(cut.trim_end().len());
    if most > 0 {
        cut.push('…');
    }
    cut
}

/// The text in exactly so many columns, on the left.
pub(super) fn left(text: &str, columns: usize) -> String {
    let mut text = cut(text, columns);
    text.extend(std::iter::repeat_n(' ', columns.saturating_sub(width(&text))));
    text
}

/// The text in exactly so many columns, on the right.
pub(super) fn right(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    " ".repeat(columns.saturating_sub(width(&text))) + &text
}

/// A duration in three digits, or four for minutes and hours; at most eight columns.
pub(super) fn duration(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    let seconds = nanoseconds / 1_000_000_000;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..999_500 => digits(value / 1e3, "µs"),
        999_500..999_500_000 => digits(value / 1e6, "ms"),
        999_500_000..60_000_000_000 => digits(value / 1e9, "s"),
        60_000_000_000..3_600_000_000_000 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600_000_000_000..360_000_000_000_000 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn digits(value: f64, unit: &str) -> String {
    if value < 9.995 {
        format!("{value:.2} {unit}")
    } else if value < 99.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// Time of the day in UTC, to the millisecond.
pub(super) fn clock(unix_nanoseconds: u64) -> String {
    let milliseconds = unix_nanoseconds / 1_000_000;
    let seconds = milliseconds / 1000;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        milliseconds % 1000
    )
}

/// What a kind is called.
pub(super) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Internal => "internal",
        Kind::Server => "server",
        Kind::Client => "client",
        Kind::Producer => "producer",
        Kind::Consumer => "consumer",
    }
}

/// `1 span`, `2 spans`.
pub(super) fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
