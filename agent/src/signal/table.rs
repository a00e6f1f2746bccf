//! Routes as a framework has them: its own templates, in the order in which it tries them.

use serde::{Deserialize, Serialize};

/// How a framework writes templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    /// `{name}` or `{name:convertor}`; the first that fits wins (Starlette, `routing.py`, `compile_path`).
    Starlette,
    /// `<name>` or `<converter:name>`; words come before placeholders, and those by their weight (werkzeug,
    /// `routing/matcher.py` and `routing/converters.py`).
    Werkzeug,
    /// `{name}` or `{name:expression}`; those with the longest beginning of words are tried first (aiohttp,
    /// `UrlDispatcher.resolve`).
    Aiohttp,
}

/// One route of a framework.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// As the framework writes it.
    pub template: String,
    /// What is matched: the template, with more behind it where it serves all that follows.
    pub pattern: String,
    /// The methods that it serves; none stands for all.
    pub methods: Vec<String>,
}

/// The routes of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// How they are written.
    pub dialect: Dialect,
    /// In the framework's own order.
    pub rules: Vec<Rule>,
}

/// Steps that matching one path against one rule may take. Several placeholders in one segment can be cut in many ways.
const STEPS_MAX: u32 = 4096;

/// What a placeholder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Takes {
    Digits,
    Float,
    Uuid,
    /// Anything but a slash.
    Segment,
    /// Anything.
    Path,
}

impl Takes {
    fn of(name: &str) -> Self {
        match name {
            "int" | r"\d+" | "[0-9]+" => Self::Digits,
            "float" => Self::Float,
            "uuid" => Self::Uuid,
            "path" | ".*" | ".+" => Self::Path,
            _ => Self::Segment,
        }
    }

    /// How many bytes at the beginning of a text it can take at most.
    fn most(self, text: &str) -> usize {
        let fits = |byte: &u8| match self {
            Self::Digits => byte.is_ascii_digit(),
            Self::Float => byte.is_ascii_digit() || *byte == b'.',
            Self::Uuid => byte.is_ascii_hexdigit() || *byte == b'-',
            Self::Segment => *byte != b'/',
            Self::Path => true,
        };
        text.bytes().take_while(fits).count()
    }
}

#[derive(Debug)]
enum Token {
    Text(String),
    Placeholder(Takes),
}

/// A table in the order in which it is tried.
#[derive(Debug)]
pub(crate) struct Matcher {
    rules: Vec<(Vec<Token>, Rule)>,
}

impl Matcher {
    pub(crate) fn new(table: &RouteTable) -> Self {
        let dialect = table.dialect;
        let tokens = |rule: &Rule| (tokens(dialect, &rule.pattern), rule.clone());
        let mut rules: Vec<_> = table.rules.iter().map(tokens).collect();
        match dialect {
            Dialect::Starlette => {}
            Dialect::Werkzeug => rules.sort_by_cached_key(|(tokens, _)| weights(tokens)),
            Dialect::Aiohttp => rules.sort_by_key(|(tokens, _)| {
                let words = match tokens.first() {
                    Some(Token::Text(text)) if tokens.len() == 1 => text.len(),
                    Some(Token::Text(text)) => text.rfind('/').unwrap_or(0),
                    _ => 0,
                };
                std::cmp::Reverse(words)
            }),
        }
        Self { rules }
    }

    /// The template of the route that serves a request, given its path without a query; of one whose method is not served, that of the first route with
    /// this path.
    pub(crate) fn template(&self, method: &str, path: &str) -> Option<&str> {
        let mut refused = None;
        for (tokens, rule) in &self.rules {
            if !fits(tokens, path, &mut { STEPS_MAX }) {
                continue;
            }
            if rule.methods.is_empty() || rule.methods.iter().any(|served| served == method) {
                return Some(&rule.template);
            }
            refused = refused.or(Some(rule.template.as_str()));
        }
        refused
    }
}

/// Of each segment whether it is a word, else how much its placeholder takes.
fn weights(tokens: &[Token]) -> Vec<Option<Takes>> {
    let mut weights = vec![None];
    for token in tokens {
        match token {
            Token::Text(text) => weights.extend(text.matches('/').map(|_| None)),
            Token::Placeholder(takes) => {
                if let Some(last) = weights.last_mut() {
                    *last = (*last).max(Some(*takes));
                }
            }
        }
    }
    weights
}

fn tokens(dialect: Dialect, pattern: &str) -> Vec<Token> {
    let (open, close) = if dialect == Dialect::Werkzeug { ('<', '>') } else { ('{', '}') };
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some((text, behind)) = rest.split_once(open) {
        let Some((inside, behind)) = split_balanced(behind, open, close) else { break };
        if !text.is_empty() {
            tokens.push(Token::Text(text.to_owned()));
        }
        let takes = match dialect {
            // `string(length=2):name`.
            Dialect::Werkzeug => {
                inside.split_once(':').map_or("", |(kind, _)| kind.split('(').next().unwrap_or_default())
            }
            Dialect::Starlette | Dialect::Aiohttp => inside.split_once(':').map_or("", |(_, kind)| kind),
        };
        tokens.push(Token::Placeholder(Takes::of(takes)));
        rest = behind;
    }
    if !rest.is_empty() {
        tokens.push(Token::Text(rest.to_owned()));
    }
    tokens
}

/// Splits at the bracket that closes, which may have pairs before it.
fn split_balanced(text: &str, open: char, close: char) -> Option<(&str, &str)> {
    let mut depth = 0;
    let end = text.char_indices().find(|(_, character)| {
        depth += i32::from(*character == open) - i32::from(*character == close);
        depth < 0
    })?;
    Some((text.get(..end.0)?, text.get(end.0 + close.len_utf8()..)?))
}

/// Whether tokens take all of a text. Placeholders take as much as they can first, as those of regular expressions do.
fn fits(tokens: &[Token], text: &str, steps: &mut u32) -> bool {
    let Some((first, rest)) = tokens.split_first() else { return text.is_empty() };
    match first {
        Token::Text(expected) => {
            text.strip_prefix(expected.as_str()).is_some_and(|behind| fits(rest, behind, steps))
        }
        Token::Placeholder(takes) => {
            let least = usize::from(*takes != Takes::Path);
            for length in (least..=takes.most(text)).rev() {
                let Some(left) = steps.checked_sub(1) else { return false };
                *steps = left;
                if text.get(length..).is_some_and(|behind| fits(rest, behind, steps)) {
                    return true;
                }
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(dialect: Dialect, rules: &[(&str, &[&str])]) -> Matcher {
        let rule = |(template, methods): &(&str, &[&str])| Rule {
            template: (*template).to_owned(),
            pattern: (*template).to_owned(),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        };
        Matcher::new(&RouteTable { dialect, rules: rules.iter().map(rule).collect() })
    }

    #[test]
    fn starlette_takes_the_first_that_fits() {
        let table = matcher(
            Dialect::Starlette,
            &[
                ("/games/latest", &["GET"]),
                ("/games/{game_id:int}", &["GET"]),
                ("/games/{name}", &["GET"]),
                ("/games/{id}", &["POST"]),
                ("/files/{path:path}", &[]),
                ("/{a}-{b}.json", &[]),
            ],
        );
        assert_eq!(table.template("GET", "/games/latest"), Some("/games/latest"));
        assert_eq!(table.template("GET", "/games/17"), Some("/games/{game_id:int}"));
        assert_eq!(table.template("GET", "/games/x17"), Some("/games/{name}"));
        assert_eq!(table.template("POST", "/games/17"), Some("/games/{id}"));
        assert_eq!(table.template("DELETE", "/games/17"), Some("/games/{game_id:int}"), "405");
        assert_eq!(table.template("GET", "/files/"), Some("/files/{path:path}"));
        assert_eq!(table.template("GET", "/files/a/b"), Some("/files/{path:path}"));
        assert_eq!(table.template("GET", "/x-y-z.json"), Some("/{a}-{b}.json"));
        assert_eq!(table.template("GET", "/games/17/players"), None);
    }

    #[test]
    fn werkzeug_takes_words_before_placeholders() {
        let table = matcher(
            Dialect::Werkzeug,
            &[("/<path:rest>", &[]), ("/games/<name>", &[]), ("/games/<int:id>", &[]), ("/games/new", &[])],
        );
        assert_eq!(table.template("GET", "/games/new"), Some("/games/new"));
        assert_eq!(table.template("GET", "/games/3"), Some("/games/<int:id>"));
        assert_eq!(table.template("GET", "/games/x"), Some("/games/<name>"));
        assert_eq!(table.template("GET", "/games/x/y"), Some("/<path:rest>"));
    }

    #[test]
    fn aiohttp_takes_the_longest_beginning_of_words() {
        let table = matcher(
            Dialect::Aiohttp,
            &[
                ("/{what}", &[]),
                ("/{what}/{id}", &[]),
                ("/games/{id:\\d{1,4}}", &[]),
                ("/all/{rest:.*}", &[]),
            ],
        );
        assert_eq!(table.template("GET", "/all/of/it"), Some("/all/{rest:.*}"));
        assert_eq!(table.template("GET", "/games/1"), Some("/games/{id:\\d{1,4}}"));
        assert_eq!(table.template("GET", "/players/1"), Some("/{what}/{id}"));
        assert_eq!(table.template("GET", "/games"), Some("/{what}"));
    }

    #[test]
    fn a_path_that_could_be_cut_in_endless_ways_fits_nothing() {
        let table = matcher(Dialect::Starlette, &[("/{a}-{b}-{c}-{d}-{e}!", &[])]);
        assert_eq!(table.template("GET", &format!("/{}", "-x".repeat(4000))), None);
    }
}
