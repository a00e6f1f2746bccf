//! SQL as text: tokens of the `PostgreSQL` dialect, removal of literals, separation of statements.
//!
//! No grammar: the lexical structure is enough for all of it, and also holds for statements that the server refuses
//! or of which only the beginning is known. Source: *`PostgreSQL`, SQL Syntax, Lexical Structure*, with
//! `standard_conforming_strings` on (the default since 9.1).

pub use super::summary::{Analysis, analyse, summary};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// White space or a comment.
    Blank,
    /// A keyword or an unquoted identifier.
    Word,
    /// A quoted identifier.
    Quoted,
    /// A string or number.
    Literal,
    /// A parameter, `$1`.
    Parameter,
    /// One character of an operator or of punctuation.
    Mark,
}

/// A piece of SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    /// Offset in the whole text, in bytes.
    pub(super) at: usize,
}

impl Token<'_> {
    /// Compares with a keyword (upper case).
    pub(super) fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }

    pub(super) fn is_mark(&self, mark: &str) -> bool {
        self.kind == Kind::Mark && self.text == mark
    }
}

/// Yields the tokens of a text; together they are the text.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let rest = self.text.get(self.at..)?;
        let first = rest.chars().next()?;
        let (kind, length) = lex(rest.as_bytes());
        // A token never ends inside a character: only ASCII bytes end one.
        let text = rest.get(..length.max(first.len_utf8())).unwrap_or(rest);
        let token = Token { kind, text, at: self.at };
        self.at += text.len();
        Some(token)
    }
}

/// Kind and length of the token at the front of a text that is not empty.
fn lex(text: &[u8]) -> (Kind, usize) {
    let byte = |at: usize| text.get(at).copied().unwrap_or_default();
    match (byte(0), byte(1)) {
        (b' ' | b'\t'..=b'\r', _) => (Kind::Blank, span(text, 0, |b| matches!(b, b' ' | b'\t'..=b'\r'))),
        (b'-', b'-') => (Kind::Blank, span(text, 0, |b| b != b'\n')),
        (b'/', b'*') => (Kind::Blank, comment(text)),
        (b'\'', _) => (Kind::Literal, quoted(text, 1, b'\'', false)),
        (b'"', _) => (Kind::Quoted, quoted(text, 1, b'"', false)),
        (b'E' | b'e', b'\'') => (Kind::Literal, quoted(text, 2, b'\'', true)),
        (b'B' | b'b' | b'X' | b'x' | b'N' | b'n', b'\'') => (Kind::Literal, quoted(text, 2, b'\'', false)),
        (b'U' | b'u', b'&') if byte(2) == b'\'' => (Kind::Literal, quoted(text, 3, b'\'', false)),
        (b'U' | b'u', b'&') if byte(2) == b'"' => (Kind::Quoted, quoted(text, 3, b'"', false)),
        (b'0'..=b'9', _) | (b'.', b'0'..=b'9') => (Kind::Literal, number(text)),
        (b'$', b'0'..=b'9') => (Kind::Parameter, span(text, 1, |b| b.is_ascii_digit())),
        (b'$', _) => dollar(text).map_or((Kind::Mark, 1), |length| (Kind::Literal, length)),
        (b, _) if is_word(b) => {
            (Kind::Word, span(text, 0, |b| is_word(b) || b.is_ascii_digit() || b == b'$'))
        }
        _ => (Kind::Mark, 1),
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn span(text: &[u8], from: usize, inside: impl Fn(u8) -> bool) -> usize {
    let tail = text.get(from..).unwrap_or_default();
    from + tail.iter().position(|&byte| !inside(byte)).unwrap_or(tail.len())
}

/// Length of a comment; they nest.
fn comment(text: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(pair) = text.get(at..at + 2) {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Length of something in quotes, of which the first `at` bytes are the opening; a doubled quote stays inside.
fn quoted(text: &[u8], mut at: usize, quote: u8, backslash: bool) -> usize {
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte == b'\\' && backslash {
            at += 1;
        } else if byte == quote {
            if text.get(at) != Some(&quote) {
                return at;
            }
            at += 1;
        }
    }
    text.len()
}

fn number(text: &[u8]) -> usize {
    let radix =
        text.first() == Some(&b'0') && matches!(text.get(1), Some(b'x' | b'X' | b'o' | b'O' | b'b' | b'B'));
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let exponent = matches!(byte, b'e' | b'E') && !radix;
        let range = text.get(at..at + 2) == Some(b"..");
        if !(byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.') || range {
            break;
        }
        at += 1;
        if exponent
            && matches!(text.get(at), Some(b'+' | b'-'))
            && text.get(at + 1).is_some_and(u8::is_ascii_digit)
        {
            at += 1;
        }
    }
    at
}

/// Length of a dollar-quoted string, `None` where this dollar sign begins none.
fn dollar(text: &[u8]) -> Option<usize> {
    let end = span(text, 1, |b| is_word(b) || b.is_ascii_digit());
    if text.get(end) != Some(&b'$') {
        return None;
    }
    let tag = text.get(..=end)?;
    let body = text.get(end + 1..)?;
    let close = body.windows(tag.len()).position(|window| window == tag);
    Some(close.map_or(text.len(), |at| end + 1 + at + tag.len()))
}

/// Replaces literals by `?`, drops comments, folds white space, and folds `IN` lists of literals to `(?)`.
///
/// Parameters (`$1`) and quoted identifiers stay. A literal without an end (a text cut short) goes as a whole.
///
/// Source: OpenTelemetry semantic conventions, database spans, *Sanitization of `db.query.text`*.
pub fn sanitize(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut blank = false;
    let mut after_in = false;
    // Where the contents of an `IN` list that holds only literals so far begin in `out`.
    let mut list: Option<usize> = None;
    for token in Tokens::new(sql) {
        if token.kind == Kind::Blank {
            blank = true;
            continue;
        }
        if std::mem::take(&mut blank) && !out.is_empty() {
            out.push(' ');
        }
        match token.kind {
            Kind::Literal => out.push('?'),
            Kind::Mark if token.text == "(" && after_in => {
                out.push('(');
                list = Some(out.len());
                after_in = false;
                continue;
            }
            Kind::Mark if token.text == ")" => {
                if let Some(start) = list.take()
                    && out.len() > start
                {
                    out.truncate(start);
                    out.push('?');
                }
                out.push(')');
            }
            _ => out.push_str(token.text),
        }
        let listed = token.kind == Kind::Literal || matches!(token.text, "," | "-" | "+");
        list = list.filter(|_| listed);
        after_in = token.is("IN");
    }
    out
}

/// Separates the statements of a text at the semicolons between them. Statements without content are left out.
pub(super) fn split(sql: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut empty = true;
    let mut parentheses = 0_usize;
    // `BEGIN ATOMIC … END` bodies of SQL functions hold semicolons of their own, and `CASE … END` inside.
    let mut atomic = 0_usize;
    let mut begin = false;
    let mut push = |from: usize, to: usize, empty: bool| {
        if !empty {
            parts.push(sql.get(from..to).unwrap_or_default().trim());
        }
    };
    for token in Tokens::new(sql) {
        match token.kind {
            Kind::Blank => continue,
            Kind::Mark => match token.text {
                "(" => parentheses += 1,
                ")" => parentheses = parentheses.saturating_sub(1),
                ";" if parentheses == 0 && atomic == 0 => {
                    push(start, token.at, empty);
                    start = token.at + 1;
                    empty = true;
                    begin = false;
                    continue;
                }
                _ => {}
            },
            Kind::Word if (token.is("ATOMIC") && begin) || (atomic > 0 && token.is("CASE")) => atomic += 1,
            Kind::Word if token.is("END") => atomic = atomic.saturating_sub(1),
            _ => {}
        }
        begin = token.is("BEGIN");
        empty = false;
    }
    push(start, sql.len(), empty);
    parts
}
