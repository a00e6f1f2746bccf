//! Routes: the templates that paths follow, for span names and `http.route`.
//!
//! A route is what the user says it is; else what the application's own framework calls it; else it is learned from the paths themselves. Segments that look like
//! identifiers become placeholders at once. Other segments are taken for words of the application until a position shows
//! more than [`WORDS_LIMIT`] different ones: from then on that position is `{*}`. What is learned depends on nothing but
//! the order of the paths.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::table::{Matcher, RouteTable};

/// Most different words that one position may show, below the same beginning.
const WORDS_LIMIT: usize = 64;
/// Longest word, in bytes. No application names its routes so.
const WORD_LIMIT: usize = 64;
/// Most segments of a template; the rest of a longer path is one `{*}`.
const DEPTH_LIMIT: usize = 16;
/// Most positions that are remembered for one service.
const NODES_LIMIT: usize = 4096;

/// The placeholder for anything.
const ANY: &str = "{*}";

/// The routes of one service.
#[derive(Debug, Default)]
pub struct Routes {
    patterns: Vec<Pattern>,
    /// Those of frameworks, by process.
    frameworks: FxHashMap<u32, Matcher>,
    root: Node,
    nodes: usize,
}

/// What may follow one beginning of a path.
#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<Box<str>, Node>,
    words: usize,
    folded: bool,
    /// A path has ended here.
    is_end: bool,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug)]
enum Segment {
    Literal(String),
    /// Any one segment that is not empty.
    One,
    /// All that follows.
    Rest,
}

impl Routes {
    /// Routes with templates that the user gives: the first that fits a path wins. `{name}` stands for one segment
    /// (`{name:path}` for all that follow, as in Starlette), `*` for one segment, or at the end for all that follow.
    pub fn new(patterns: &[String]) -> Self {
        let patterns = patterns.iter().map(|text| Pattern::new(text)).collect();
        Self { patterns, ..Self::default() }
    }

    /// Notes the routes that a framework has in a process.
    pub fn found(&mut self, pid: u32, table: &RouteTable) {
        self.frameworks.insert(pid, Matcher::new(table));
    }

    /// Forgets them.
    pub fn forget(&mut self, pid: u32) {
        self.frameworks.remove(&pid);
    }

    /// Keeps those of processes that are known.
    pub fn retain(&mut self, is_known: impl Fn(u32) -> bool) {
        self.frameworks.retain(|pid, _| is_known(*pid));
    }

    /// The user's template, or that of the process's framework.
    fn given(&self, pid: u32, method: &str, path: &str) -> Option<String> {
        let bare = path.split_once(['?', '#']).map_or(path, |(path, _)| path);
        if let Some(pattern) = self.patterns.iter().find(|pattern| pattern.fits(bare)) {
            return Some(pattern.text.clone());
        }
        self.frameworks.get(&pid)?.template(method, bare).map(str::to_owned)
    }

    /// The template of a path, for example `/games/{id}` for `/games/17`. What is shown is learned, so do not show paths
    /// that led nowhere (`404`): they are not routes, and scanners make them up by the thousand.
    pub fn template(&mut self, pid: u32, method: &str, path: &str) -> String {
        if let Some(given) = self.given(pid, method, path) {
            return given;
        }
        let path = path.split_once(['?', '#']).map_or(path, |(path, _)| path);
        let Some(path) = path.strip_prefix('/') else { return ANY.to_owned() };
        let mut template = String::with_capacity(path.len() + 1);
        let mut node = &mut self.root;
        let last = path.split('/').count() - 1;
        for (depth, segment) in path.split('/').enumerate() {
            template.push('/');
            let next = if depth < DEPTH_LIMIT { node.next(segment, &mut self.nodes) } else { None };
            let Some((shown, next)) = next else {
                template.push_str(ANY);
                break;
            };
            template.push_str(shown);
            next.is_end |= depth == last;
            node = next;
        }
        template
    }
}

impl Routes {
    /// The template of a path that was refused (`4xx`), where it leads to a route that is already known; nothing is
    /// learned. With `lenient`, what is no identifier may stand where only identifiers were seen: `/games/x` was
    /// refused because of its `x` (`422`), not because there is no such route (`404`).
    pub fn known(&self, pid: u32, method: &str, path: &str, lenient: bool) -> Option<String> {
        if let Some(given) = self.given(pid, method, path) {
            return Some(given);
        }
        let path = path.split_once(['?', '#']).map_or(path, |(path, _)| path);
        let mut template = String::with_capacity(path.len());
        let mut node = &self.root;
        for (depth, segment) in path.strip_prefix('/')?.split('/').enumerate() {
            template.push('/');
            if depth >= DEPTH_LIMIT {
                template.push_str(ANY);
                return Some(template);
            }
            let (shown, next) = node.known(segment, lenient)?;
            template.push_str(shown);
            node = next;
        }
        // The beginning of a longer route is none itself.
        node.is_end.then_some(template)
    }
}

impl Node {
    /// How a segment is shown here, and what may follow it, where it was seen before.
    fn known<'a>(&'a self, segment: &'a str, lenient: bool) -> Option<(&'a str, &'a Self)> {
        let shown = placeholder(segment).unwrap_or(if self.folded { ANY } else { segment });
        if let Some(next) = self.children.get(shown) {
            return Some((shown, next));
        }
        let mut children = self.children.iter();
        match (children.next(), children.next()) {
            (Some((shown, next)), None) if lenient && shown.starts_with('{') => Some((shown, next)),
            _ => None,
        }
    }

    /// How a segment is shown here, and what may follow it; `None` where nothing more can be remembered.
    fn next<'a>(&mut self, segment: &'a str, nodes: &mut usize) -> Option<(&'a str, &mut Self)> {
        let placeholder = placeholder(segment);
        let mut shown = placeholder.unwrap_or(segment);
        if placeholder.is_none() && !self.children.contains_key(shown) {
            if self.words >= WORDS_LIMIT {
                *nodes -= self.fold();
            }
            if self.folded {
                shown = ANY;
            }
        }
        if !self.children.contains_key(shown) {
            if *nodes >= NODES_LIMIT {
                return None;
            }
            *nodes += 1;
            self.words += usize::from(placeholder.is_none() && !self.folded);
            self.children.insert(shown.into(), Self::default());
        }
        Some((shown, self.children.get_mut(shown)?))
    }

    /// Forgets the words and what followed them; the number of positions forgotten.
    fn fold(&mut self) -> usize {
        let before = self.size();
        self.folded = true;
        self.words = 0;
        self.children.retain(|segment, _| segment.starts_with('{'));
        before - self.size()
    }

    fn size(&self) -> usize {
        1 + self.children.values().map(Self::size).sum::<usize>()
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let count = text.split('/').count();
        let segments = text.split('/').enumerate().map(|(index, segment)| {
            let last = index + 1 == count;
            match segment {
                "*" if last => Segment::Rest,
                "*" => Segment::One,
                _ if segment.starts_with('{') && segment.ends_with(":path}") => Segment::Rest,
                _ if segment.starts_with('{') && segment.ends_with('}') => Segment::One,
                _ => Segment::Literal(segment.to_owned()),
            }
        });
        Self { text: text.to_owned(), segments: segments.collect() }
    }

    fn fits(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        for expected in &self.segments {
            let Some(segment) = segments.next() else { return false };
            match expected {
                Segment::Literal(literal) if literal == segment => {}
                Segment::One if !segment.is_empty() => {}
                Segment::Rest => return true,
                Segment::Literal(_) | Segment::One => return false,
            }
        }
        segments.next().is_none()
    }
}

/// The name of a channel or list with placeholders for the parts, between `:`, `.` and `/`, that cannot be words.
pub fn name(text: &str) -> String {
    let mut template = String::with_capacity(text.len());
    for part in text.split_inclusive([':', '.', '/']) {
        let word = part.trim_end_matches([':', '.', '/']);
        template.push_str(placeholder(word).unwrap_or(word));
        template.push_str(part.get(word.len()..).unwrap_or_default());
    }
    template
}

/// The placeholder of a segment that cannot be a word.
fn placeholder(segment: &str) -> Option<&'static str> {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    match bytes {
        [] => None,
        [b'-', number @ ..] if !number.is_empty() && digits == number.len() => Some("{id}"),
        _ if digits == bytes.len() => Some("{id}"),
        _ if is_uuid(bytes) => Some("{uuid}"),
        _ if is_date(bytes) => Some("{date}"),
        _ if bytes.len() >= 16 && digits > 0 && bytes.iter().all(u8::is_ascii_hexdigit) => Some("{hash}"),
        _ if is_token(bytes, digits) => Some("{hash}"),
        // Nor is it an e-mail address, and braces would be taken for a placeholder.
        [_, rest @ ..] if rest.contains(&b'@') || segment.contains("%40") => Some(ANY),
        _ if bytes.len() > WORD_LIMIT || segment.contains(['{', '}']) => Some(ANY),
        _ => None,
    }
}

/// RFC 9562 §4: 8-4-4-4-12 hexadecimal digits.
fn is_uuid(bytes: &[u8]) -> bool {
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// `2024-05-17`, alone or with a time behind it (RFC 3339), or `2024-05`.
fn is_date(bytes: &[u8]) -> bool {
    let fits = |pattern: &[u8]| {
        pattern.iter().zip(bytes).all(|(pattern, byte)| match pattern {
            b'0' => byte.is_ascii_digit(),
            _ => pattern == byte,
        })
    };
    match bytes.len() {
        7 => fits(b"0000-00"),
        10 => fits(b"0000-00-00"),
        16.. => fits(b"0000-00-00T00:00") || fits(b"0000-00-00t00:00") || fits(b"0000-00-00T00%3A00"),
        _ => false,
    }
}

/// A random token in base64, base64url, base32 or the like, or a JSON web token: too long and too mixed for a name.
fn is_token(bytes: &[u8], digits: usize) -> bool {
    let count = |kind: fn(&u8) -> bool| bytes.iter().filter(|&byte| kind(byte)).count();
    let (upper, lower) = (count(u8::is_ascii_uppercase), count(u8::is_ascii_lowercase));
    let marks = count(|byte| matches!(byte, b'-' | b'_' | b'=' | b'+' | b'~'));
    let dots = count(|byte| *byte == b'.');
    if bytes.len() < 20
        || upper + lower + digits + marks + dots != bytes.len()
        || (dots > 0 && bytes.len() < 40)
    {
        return false;
    }
    let mixed = upper >= 2 && lower >= 2 && digits >= 2;
    let one_case = marks + dots == 0 && digits >= 4 && (upper == 0 || lower == 0);
    mixed || one_case
}

#[cfg(test)]
mod tests;
