//! Django's patterns: each is matched with the beginning of what those before it have left.

use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};
use rustc_hash::FxHashMap;

use super::Fit;

/// Largest expression that is made, bytes of memory.
const EXPRESSION_MAX: usize = 256 * 1024;
/// Different ones of one table; what is behind them is not known.
const EXPRESSIONS_MAX: usize = 4096;

/// Between the patterns of a rule.
pub const PART: char = '\0';

/// One pattern; `None` where it is not known what fits it.
#[derive(Clone, Debug)]
pub(super) struct Part(Option<Regex>);

/// The patterns of a table so far, by their text and whether they are the last of a rule.
pub(super) type Known = FxHashMap<(String, bool), Part>;

/// The patterns of a rule.
pub(super) fn parts(text: &str, known: &mut Known) -> Vec<Part> {
    let last = text.matches(PART).count();
    let part = |(index, text): (usize, &str)| {
        let key = (text.to_owned(), index == last);
        if let Some(part) = known.get(&key) {
            return part.clone();
        }
        let expression =
            if text.starts_with('^') { Some(text.to_owned()) } else { route(text, index == last) };
        // What Rust's expressions do not have: looking ahead, references to what was found.
        let made = expression
            .filter(|_| known.len() < EXPRESSIONS_MAX)
            .and_then(|expression| RegexBuilder::new(&expression).size_limit(EXPRESSION_MAX).build().ok());
        known.entry(key).or_insert(Part(made)).clone()
    };
    text.split(PART).enumerate().map(part).collect()
}

/// The expression that is behind a route (`_route_to_regex`); `None` where a converter is not one of Django's own
/// (`urls/converters.py`). Text behind `<` without `>` is no placeholder.
fn route(text: &str, is_last: bool) -> Option<String> {
    let mut expression = String::from("^");
    let mut rest = text;
    while let Some((before, (inside, behind))) =
        rest.split_once('<').and_then(|(before, behind)| Some((before, behind.split_once('>')?)))
    {
        let takes = match inside.split_once(':').map_or("str", |(converter, _)| converter) {
            "str" => "[^/]+",
            "int" => "[0-9]+",
            "slug" => "[-a-zA-Z0-9_]+",
            "uuid" => "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            "path" => ".+",
            _ => return None,
        };
        let _ = write!(expression, "{}{takes}", regex::escape(before));
        rest = behind;
    }
    let _ = write!(expression, "{}{}", regex::escape(rest), if is_last { r"\z" } else { "" });
    Some(expression)
}

/// Whether a rule fits a path.
pub(super) fn fits(parts: &[Part], path: &str) -> Fit {
    let mut rest = path;
    for Part(expression) in parts {
        let Some(expression) = expression else { return Fit::Maybe };
        let Some(found) = expression.find(rest) else { return Fit::No };
        rest = rest.get(found.end()..).unwrap_or_default();
    }
    Fit::Yes
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, Matcher, RouteTable, Rule};

    fn matcher(rules: &[&str]) -> Matcher {
        let rule = |parts: &&str| Rule {
            template: parts.replace('\0', ""),
            pattern: format!("^/\0{parts}"),
            methods: Vec::new(),
            within: 0,
        };
        Matcher::new(&RouteTable { dialect: Dialect::Django, rules: rules.iter().map(rule).collect() })
    }

    #[test]
    fn django_takes_the_first_that_fits_part_by_part() {
        let table = matcher(&[
            "games/latest/",
            "games/<int:id>/",
            "games/<slug:name>/",
            "shop/\0items/<uuid:item>",
            "shop/\0^old/(?P<year>[0-9]{4})/$",
            "files/<path:rest>",
            "<lang>/\0about.html",
        ]);
        let template = |path| table.template("GET", path);
        assert_eq!(template("/games/latest/"), Some("games/latest/"));
        assert_eq!(template("/games/17/"), Some("games/<int:id>/"));
        assert_eq!(template("/games/x-17/"), Some("games/<slug:name>/"));
        assert_eq!(template("/games/17"), None, "the slash is not there");
        assert_eq!(template("/games/x.y/"), None);
        assert_eq!(
            template("/shop/items/0f0e0d0c-0b0a-4908-8706-050403020100"),
            Some("shop/items/<uuid:item>")
        );
        assert_eq!(template("/shop/old/1984/"), Some("shop/^old/(?P<year>[0-9]{4})/$"));
        assert_eq!(template("/shop/old/84/"), None);
        assert_eq!(template("/files/a/b"), Some("files/<path:rest>"));
        assert_eq!(template("/de/about.html"), Some("<lang>/about.html"));
        assert_eq!(template("/de/aboutXhtml"), None, "a point is a point");
    }

    #[test]
    fn what_is_behind_an_unknown_converter_is_not_certain() {
        let table = matcher(&["games/", "<hex:id>/", "<name>/"]);
        assert_eq!(table.template("GET", "/games/"), Some("games/"));
        assert_eq!(table.template("GET", "/abc/"), None);
        let table = matcher(&[r"^(?!admin)[a-z]+/$", "<name>/"]);
        assert_eq!(table.template("GET", "/abc/"), None, "Rust has no looking ahead");
    }
}
