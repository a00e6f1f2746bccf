//! Routes as a framework has them: its own templates, in the order in which it tries them.

mod django;

use serde::{Deserialize, Serialize};

pub use django::PART;

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
    /// `<name>` or `<converter:name>` or a regular expression, several of them in a row; the first that fits wins (Django,
    /// `urls/resolvers.py`).
    Django,
}

/// One route of a framework.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// As the framework writes it; empty for a part of the application in which nothing more is known: what fits it goes
    /// nowhere else.
    pub template: String,
    /// What is matched, where that is not the template; else empty.
    pub pattern: String,
    /// The methods that it serves; none stands for all.
    pub methods: Vec<String>,
    /// Number of the application within the application to which it belongs.
    pub within: u16,
}

/// The routes of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// How they are written.
    pub dialect: Dialect,
    /// In the framework's own order.
    pub rules: Vec<Rule>,
}

impl RouteTable {
    /// Bytes of text in it.
    pub fn size(&self) -> usize {
        let size = |rule: &Rule| {
            let methods: usize = rule.methods.iter().map(|method| method.len() + 1).sum();
            rule.template.len() + rule.pattern.len() + methods + 8
        };
        self.rules.iter().map(size).sum()
    }
}

/// Steps that matching one path against one rule may take. Several placeholders in one segment can be cut in many ways.
const STEPS_MAX: u32 = 4096;

/// What a placeholder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Takes {
    Digits,
    /// Anything but a slash.
    Segment,
    /// Anything, and at least so many bytes.
    Path(usize),
    /// It is not known what: at most anything.
    Unknown,
}

impl Takes {
    /// By the converter in Starlette and werkzeug, by the expression in aiohttp.
    fn of(dialect: Dialect, name: &str) -> Self {
        match (dialect, name) {
            (Dialect::Werkzeug, "" | "default" | "string") | (_, "") | (Dialect::Starlette, "str") => {
                Self::Segment
            }
            (Dialect::Starlette | Dialect::Werkzeug, "int") | (Dialect::Aiohttp, r"\d+" | "[0-9]+") => {
                Self::Digits
            }
            (Dialect::Aiohttp, "[^/]+" | "[^{}/]+") => Self::Segment,
            (Dialect::Starlette, "path") | (Dialect::Aiohttp, ".*") => Self::Path(0),
            (Dialect::Werkzeug, "path") | (Dialect::Aiohttp, ".+") => Self::Path(1),
            _ => Self::Unknown,
        }
    }

    /// How many bytes at the beginning of a text it can take at most.
    fn most(self, text: &str) -> usize {
        let fits = |byte: &u8| match self {
            Self::Digits => byte.is_ascii_digit(),
            Self::Segment => *byte != b'/',
            Self::Path(_) | Self::Unknown => true,
        };
        text.bytes().take_while(fits).count()
    }

    fn least(self) -> usize {
        match self {
            Self::Digits | Self::Segment => 1,
            Self::Path(least) => least,
            Self::Unknown => 0,
        }
    }
}

#[derive(Debug)]
enum Token {
    Text(String),
    Placeholder(Takes),
}

/// Whether a rule fits a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    No,
    Yes,
    /// It depends on what is not known.
    Maybe,
}

/// A table in the order in which it is tried.
#[derive(Debug)]
pub(crate) struct Matcher {
    dialect: Dialect,
    rules: Vec<(Pattern, Rule)>,
}

#[derive(Debug)]
enum Pattern {
    Tokens(Vec<Token>),
    Parts(Vec<django::Part>),
}

impl Pattern {
    fn new(dialect: Dialect, text: &str, known: &mut django::Known) -> Self {
        match dialect {
            Dialect::Django => Self::Parts(django::parts(text, known)),
            Dialect::Starlette | Dialect::Werkzeug | Dialect::Aiohttp => Self::Tokens(tokens(dialect, text)),
        }
    }

    fn tokens(&self) -> &[Token] {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Parts(_) => &[],
        }
    }

    fn fits(&self, path: &str) -> Fit {
        match self {
            Self::Tokens(tokens) => fits(tokens, path, &mut { STEPS_MAX }),
            Self::Parts(parts) => django::fits(parts, path),
        }
    }
}

impl Matcher {
    pub(crate) fn new(table: &RouteTable) -> Self {
        let dialect = table.dialect;
        let mut known = django::Known::default();
        let tokens = |rule: &Rule| {
            let pattern = if rule.pattern.is_empty() { &rule.template } else { &rule.pattern };
            (Pattern::new(dialect, pattern, &mut known), rule.clone())
        };
        let mut rules: Vec<_> = table.rules.iter().map(tokens).collect();
        match dialect {
            Dialect::Starlette | Dialect::Django => {}
            Dialect::Werkzeug => rules.sort_by_cached_key(|(pattern, _)| weights(pattern.tokens())),
            Dialect::Aiohttp => rules.sort_by_key(|(pattern, _)| {
                let words = match pattern.tokens() {
                    [Token::Text(text)] => text.len(),
                    [Token::Text(text), ..] => text.rfind('/').unwrap_or(0),
                    _ => 0,
                };
                std::cmp::Reverse(words)
            }),
        }
        Self { dialect, rules }
    }

    /// The template of the route that serves a request, given its path without a query; of one whose method is not served,
    /// that of the first route with this path. `None` where there is none, or it is not certain which.
    pub(crate) fn template(&self, method: &str, path: &str) -> Option<&str> {
        // Frameworks match what is decoded.
        if path.contains('%') {
            return None;
        }
        let mut found: Option<&(Pattern, Rule)> = None;
        let mut refused: Option<&Rule> = None;
        for candidate in &self.rules {
            let (pattern, rule) = candidate;
            let fit = pattern.fits(path);
            if fit == Fit::No {
                continue;
            }
            let serves = rule.methods.is_empty() || rule.methods.iter().any(|served| served == method);
            match found {
                _ if fit == Fit::Maybe && serves => return None,
                None if !serves => refused = refused.or(Some(rule)),
                None => {
                    found = Some(candidate);
                    if matches!(self.dialect, Dialect::Starlette | Dialect::Django) {
                        // Whatever else fits is not tried.
                        break;
                    }
                }
                // Of which application it is, and which of two words with placeholders in them comes first, shows
                // elsewhere.
                Some((before, first))
                    if serves
                        && (first.within != rule.within
                            || !is_before(self.dialect, before.tokens(), pattern.tokens())) =>
                {
                    return None;
                }
                Some(_) => {}
            }
        }
        let rule = found.map(|(_, rule)| rule).or(refused)?;
        Some(rule.template.as_str()).filter(|template| !template.is_empty())
    }
}

/// Whether the first of two rules that both fit, in the order of [`Matcher::new`], is certain to be tried before the other.
fn is_before(dialect: Dialect, first: &[Token], other: &[Token]) -> bool {
    if dialect == Dialect::Aiohttp {
        return true;
    }
    // In segments that are words or one placeholder, the order is by their weights; `path` says so at the end only.
    let is_plain = |tokens: &[Token]| {
        let last = tokens.len().saturating_sub(1);
        tokens.iter().enumerate().all(|(index, token)| match token {
            Token::Text(text) => {
                (index == 0 || text.starts_with('/')) && (index == last || text.ends_with('/'))
            }
            Token::Placeholder(Takes::Path(_)) => index == last,
            Token::Placeholder(_) => true,
        })
    };
    is_plain(first) && is_plain(other) && weights(first) < weights(other)
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
        let takes = inside.split_once(':').map_or("", |(first, second)| match dialect {
            // With arguments, as in `string(length=2):name`, it is none of those that are known.
            Dialect::Werkzeug => first,
            _ => second,
        });
        tokens.push(Token::Placeholder(Takes::of(dialect, takes)));
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
fn fits(tokens: &[Token], text: &str, steps: &mut u32) -> Fit {
    let Some((first, rest)) = tokens.split_first() else {
        return if text.is_empty() { Fit::Yes } else { Fit::No };
    };
    let takes = match first {
        Token::Text(expected) => {
            return text.strip_prefix(expected.as_str()).map_or(Fit::No, |behind| fits(rest, behind, steps));
        }
        Token::Placeholder(takes) => *takes,
    };
    for length in (takes.least()..=takes.most(text)).rev() {
        let Some(left) = steps.checked_sub(1) else { return Fit::Maybe };
        *steps = left;
        match text.get(length..).map_or(Fit::No, |behind| fits(rest, behind, steps)) {
            Fit::No => {}
            Fit::Yes if takes == Takes::Unknown => return Fit::Maybe,
            fit => return fit,
        }
    }
    Fit::No
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(dialect: Dialect, rules: &[(&str, &[&str])]) -> Matcher {
        let rule = |(template, methods): &(&str, &[&str])| Rule {
            template: (*template).to_owned(),
            pattern: String::new(),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            within: 0,
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
        assert_eq!(table.template("GET", "/files/a%2Fb"), None, "it is matched decoded");
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
        let rules = [
            ("/{what}", &[][..]),
            ("/{what}/{id}", &[]),
            ("/games/{id:\\d+}", &[]),
            ("/games/{name}", &[]),
            ("/years/{year:\\d{4}}", &[]),
            ("/all/{rest:.*}", &[]),
        ];
        let table = matcher(Dialect::Aiohttp, &rules);
        assert_eq!(table.template("GET", "/all/of/it"), Some("/all/{rest:.*}"));
        assert_eq!(table.template("GET", "/games/1"), Some("/games/{id:\\d+}"));
        assert_eq!(table.template("GET", "/games/x"), Some("/games/{name}"));
        assert_eq!(table.template("GET", "/players/1"), Some("/{what}/{id}"));
        assert_eq!(table.template("GET", "/games"), Some("/{what}"));
        assert_eq!(table.template("GET", "/years/1984"), None, "whether that expression fits is not known");
    }

    #[test]
    fn what_is_not_certain_has_no_template() {
        let table = matcher(Dialect::Starlette, &[("/games/{id:uuid}", &[]), ("/games/{name}", &[])]);
        assert_eq!(table.template("GET", "/games/17"), None, "it may be a UUID in this convertor's eyes");
        let table = matcher(Dialect::Werkzeug, &[("/<string(length=2):lang>", &[]), ("/<slug>", &[])]);
        assert_eq!(table.template("GET", "/about"), None);
        let table = matcher(Dialect::Werkzeug, &[("/a/x-<b>", &[]), ("/a/<c>", &[])]);
        assert_eq!(table.template("GET", "/a/b"), Some("/a/<c>"));
        assert_eq!(table.template("GET", "/a/x-1"), None, "which is tried first shows elsewhere");
        let (path, edit) = (("/<path:rest>", &[][..]), ("/<path:rest>/edit", &[][..]));
        assert_eq!(matcher(Dialect::Werkzeug, &[path, edit]).template("GET", "/a/edit"), None);
    }

    #[test]
    fn what_a_mount_takes_goes_nowhere_else() {
        let rule = |template: &str, pattern: &str| Rule {
            template: template.to_owned(),
            pattern: pattern.to_owned(),
            methods: vec!["GET".to_owned()],
            within: 0,
        };
        let barrier = Rule { methods: Vec::new(), ..rule("", "/api/{path:path}") };
        let rules = vec![rule("/api/items/{id}", ""), barrier, rule("/{path:path}", "")];
        let table = Matcher::new(&RouteTable { dialect: Dialect::Starlette, rules });
        assert_eq!(table.template("GET", "/api/items/3"), Some("/api/items/{id}"));
        assert_eq!(table.template("GET", "/api/typo"), None);
        assert_eq!(table.template("GET", "/other"), Some("/{path:path}"));
    }

    #[test]
    fn a_path_that_could_be_cut_in_endless_ways_fits_nothing() {
        let table = matcher(Dialect::Starlette, &[("/{a}-{b}-{c}-{d}-{e}!", &[])]);
        assert_eq!(table.template("GET", &format!("/{}", "-x".repeat(4000))), None);
    }
}
