//! Secrets out of logs.
//!
//! A net with known holes: what an application writes of its secrets in words of its own passes. It catches passwords in
//! URLs, values behind a name that says that they are secret, the credentials of HTTP headers, cookies, and tokens whose
//! form gives them away (JSON Web Tokens, Discord's, GitHub's, Slack's, AWS's).

use std::{borrow::Cow, sync::LazyLock};

use regex::{Regex, RegexSet};

use super::Parsed;
use crate::signal::{Attribute, Value};

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// Words of a name that make its value a secret.
const SECRET: &str = r"pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|apikey|access[_-]?key|private[_-]?key|credentials?|authorization|session[_-]?id|cookie";

/// What is always replaced, and by what.
static KNOWN: LazyLock<[(Regex, &str); 5]> = LazyLock::new(|| {
    let pattern = |text: &str| Regex::new(text).expect("the patterns are constants");
    [
        // scheme://user:PASSWORD@host; the last @ before a blank or slash ends it.
        (pattern(r"(\w://[^\s:/@]*:)[^\s/]+@"), "$1***@"),
        // Cookies go to the end of the line, for their values have blanks.
        (pattern(r#"(?i)\b((?:set-)?cookie\b["']?\s*[:=,]\s*)[^\r\n]+"#), "$1***"),
        (pattern(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}"), "$1 ***"),
        (
            pattern(
                r"(?-u:\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+|\b[\w-]{23,28}\.[\w-]{6,7}\.[\w-]{27,}|\bgh[pousr]_\w{20,}|\bxox[abprs]-[\w-]{10,}|\bAKIA[A-Z0-9]{16}\b)",
            ),
            MASK,
        ),
        (
            pattern(&format!(
                r#"(?i)([\w.-]*(?:{SECRET})[\w-]*\\*["']?\s*(?:=>|[:=])\s*)(?:[bru]{{0,2}}\\+"(?:[^"\\]|\\+[^"\\])*\\+"|(?:\w+\(|[bru]{{0,2}})"(?:\\.|[^"\\])*"|(?:\w+\(|[bru]{{0,2}})'(?:\\.|[^'\\])*'|(?:(?:bearer|basic|digest|token|bot|negotiate|apikey)\s+)?[^\s,;&)}}\]'"]+)"#
            )),
            "$1***",
        ),
    ]
});

/// What a text has at least that one of these fits, so that one pass shows of most that they have no secret. Tokens are ASCII.
static HINTS: LazyLock<RegexSet> = LazyLock::new(|| {
    let hints = [
        "://[^\\s/]+@",
        "(?i)cookie",
        "(?i)bearer|basic",
        r"(?-u)eyJ[\w-]{8}|[\w-]{23}\.[\w-]{6,7}\.[\w-]{27}|gh[pousr]_\w{20}|xox[abprs]-[\w-]{10}|AKIA[A-Z0-9]{16}",
        &format!("(?i){SECRET}"),
    ];
    RegexSet::new(hints).expect("the patterns are constants")
});

/// A name whose value is a secret.
static SECRET_NAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(&format!("(?i)(?:{SECRET})[a-z0-9_-]*$")).expect("the pattern is a constant")
});

static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+").expect("the pattern is a constant"));

/// Takes secrets out.
#[derive(Debug, Default)]
pub struct Redactor {
    own: Vec<Regex>,
    email: bool,
}

impl Redactor {
    /// A redactor that also replaces what fits `patterns`, and e-mail addresses if told so. Patterns that are none are
    /// left out; the configuration has refused them.
    pub fn new(patterns: &[String], email: bool) -> Self {
        Self { own: patterns.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect(), email }
    }

    /// The text without secrets.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let hints = HINTS.matches(text);
        let known = hints.iter().filter_map(|hint| KNOWN.get(hint)).map(|(pattern, by)| (pattern, *by));
        let own = self.own.iter().map(|pattern| (pattern, MASK));
        let email = self.email.then_some((&*EMAIL, MASK));
        let mut clean = Cow::Borrowed(text);
        for (pattern, by) in known.chain(own).chain(email) {
            if let Cow::Owned(replaced) = pattern.replace_all(&clean, by) {
                clean = Cow::Owned(replaced);
            }
        }
        clean
    }

    /// Takes secrets out of all that a record says.
    pub fn record(&self, record: &mut Parsed) {
        self.string(&mut record.body);
        if let Some(logger) = &mut record.logger {
            self.string(logger);
        }
        if let Some(exception) = &mut record.exception {
            self.string(&mut exception.message);
            self.string(&mut exception.stacktrace);
        }
        for attribute in &mut record.attributes {
            self.attribute(attribute);
        }
    }

    fn attribute(&self, attribute: &mut Attribute) {
        if SECRET_NAME.is_match(&attribute.key) {
            attribute.value = MASK.into();
        } else if let Value::Str(text) = &mut attribute.value
            && let Cow::Owned(clean) = self.text(text)
        {
            *text = Cow::Owned(clean);
        }
    }

    fn string(&self, text: &mut String) {
        if let Cow::Owned(clean) = self.text(text) {
            *text = clean;
        }
    }
}

#[cfg(test)]
mod tests;
