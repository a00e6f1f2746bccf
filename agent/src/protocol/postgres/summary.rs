//! What statements do to what, in a few words: `SELECT games`, `INSERT games SELECT imports`, `BEGIN; SELECT games`.
//!
//! Source: OpenTelemetry semantic conventions, database spans, *Generating a summary of the query text*: operations
//! and their targets in the order in which they stand, as written, at most 255 characters.

use super::sql::{Kind, Token, Tokens, split};

/// Longest summary, in bytes.
const MAX_SUMMARY: usize = 255;
/// What stands between the summaries of statements.
const SEPARATOR: &str = " ";
/// Deepest nesting of parentheses that is followed.
const MAX_DEPTH: usize = 64;

/// What the words of a text tell. Of several statements, what they do not have in common is not told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Analysis {
    /// Operations and targets; `None` where no operation is known. Those of several statements one behind the other,
    /// as many as there is room for.
    pub summary: Option<String>,
    /// The first operation, as written.
    pub operation: Option<String>,
    /// The procedure of a `CALL`, without quotes.
    pub procedure: Option<String>,
    /// There are several statements.
    pub several: bool,
}

/// The value of `db.query.summary`; `None` where no operation is known.
pub fn summary(sql: &str) -> Option<String> {
    analyse(sql).summary
}

/// Reads operations and targets of the statements of a text.
pub fn analyse(sql: &str) -> Analysis {
    let mut parts = split(sql).into_iter().map(analyse_one);
    let mut whole = parts.next().unwrap_or_default();
    let mut full = false;
    for part in parts {
        whole.several = true;
        if !same(whole.operation.as_deref(), part.operation.as_deref()) {
            whole.operation = None;
        }
        whole.procedure = whole.procedure.filter(|name| part.procedure.as_ref() == Some(name));
        let Some(next) = part.summary else { continue };
        let summary = whole.summary.get_or_insert_default();
        let separator = if summary.is_empty() { "" } else { SEPARATOR };
        full |= summary.len() + separator.len() + next.len() > MAX_SUMMARY;
        if !full {
            summary.push_str(separator);
            summary.push_str(&next);
        }
    }
    whole
}

/// Says whether these are the same operation, which may be written in different case.
fn same(one: Option<&str>, other: Option<&str>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one.eq_ignore_ascii_case(other))
}

fn analyse_one(sql: &str) -> Analysis {
    let tokens: Vec<Token<'_>> = Tokens::new(sql).filter(|token| token.kind != Kind::Blank).collect();
    let mut reader = Reader::new(&tokens);
    while reader.step() {}
    reader.finish()
}

/// Where a name stands, which says whether it is a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A table for certain.
    Table,
    /// A table, or a function where parentheses follow.
    Source,
    /// Something else.
    Other,
}

/// What holds between a pair of parentheses, or outside all.
#[derive(Clone, Copy, Default)]
struct Scope {
    /// `FROM` and `JOIN` name tables.
    sources: bool,
    /// `USING` names tables.
    using: bool,
    /// A comma is followed by a table.
    list: bool,
    /// `INTO` names a table.
    into: bool,
    /// `WITH` has been read, its statement not yet.
    with: bool,
}

struct Reader<'t, 'a> {
    tokens: &'t [Token<'a>],
    at: usize,
    scopes: Vec<Scope>,
    /// Nothing of the statement has been read.
    start: bool,
    /// The rest of the statement has no operations of its own.
    closed: bool,
    /// An operation may follow a closing parenthesis.
    resumes: bool,
    full: bool,
    summary: String,
    operation: Option<String>,
    procedure: Option<String>,
}

impl<'t, 'a> Reader<'t, 'a> {
    fn new(tokens: &'t [Token<'a>]) -> Self {
        Self {
            tokens,
            at: 0,
            scopes: vec![Scope::default()],
            start: true,
            closed: false,
            resumes: false,
            full: false,
            summary: String::new(),
            operation: None,
            procedure: None,
        }
    }

    fn finish(self) -> Analysis {
        Analysis {
            summary: Some(self.summary).filter(|text| !text.is_empty()),
            operation: self.operation,
            procedure: self.procedure,
            several: false,
        }
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn previous(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at.checked_sub(1)?).copied()
    }

    /// Steps over any of these keywords.
    fn skip(&mut self, words: &[&str]) {
        while self.peek().is_some_and(|token| words.iter().any(|word| token.is(word))) {
            self.at += 1;
        }
    }

    fn scope(&mut self) -> &mut Scope {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    /// Reads one token and what belongs to it; `false` at the end.
    fn step(&mut self) -> bool {
        let Some(token) = self.peek().filter(|_| !self.full && self.scopes.len() <= MAX_DEPTH) else {
            return false;
        };
        let previous = self.previous();
        self.at += 1;
        match token.kind {
            Kind::Mark => self.mark(token.text, previous),
            Kind::Word => {
                let start = std::mem::take(&mut self.start);
                if !self.closed {
                    self.word(token, previous, start);
                }
            }
            _ => self.start = false,
        }
        true
    }

    fn mark(&mut self, mark: &str, previous: Option<Token<'a>>) {
        match mark {
            "(" => self.scopes.push(Scope::default()),
            ")" if self.scopes.len() > 1 => drop(self.scopes.pop()),
            "," if self.scope().list => {
                self.target(Place::Source);
            }
            "," if self.scope().with && previous.is_some_and(|token| token.is_mark(")")) => self.common(),
            _ => {}
        }
    }

    fn word(&mut self, token: Token<'a>, previous: Option<Token<'a>>, start: bool) {
        let upper = token.text.to_ascii_uppercase();
        match upper.as_str() {
            "SELECT" => {
                self.operation(token.text);
                *self.scope() = Scope { sources: true, into: true, ..Scope::default() };
            }
            "INSERT" | "UPDATE" | "DELETE" | "MERGE" if start || self.leads(previous) => {
                self.operation(token.text);
                *self.scope() = Scope {
                    sources: matches!(upper.as_str(), "UPDATE" | "DELETE"),
                    using: matches!(upper.as_str(), "DELETE" | "MERGE"),
                    into: matches!(upper.as_str(), "INSERT" | "MERGE"),
                    ..Scope::default()
                };
                if upper == "UPDATE" {
                    self.target(Place::Table);
                }
            }
            // `IS DISTINCT FROM` compares.
            "FROM" if self.scope().sources && !previous.is_some_and(|token| token.is("DISTINCT")) => {
                self.scope().list = true;
                self.target(Place::Source);
            }
            "JOIN" if self.scope().sources => {
                self.target(Place::Source);
            }
            "USING" if self.scope().using => {
                self.scope().list = true;
                self.target(Place::Source);
            }
            "INTO" if self.scope().into => {
                self.scope().into = false;
                self.target(Place::Table);
            }
            "WITH" if start || previous.is_some_and(|token| token.is_mark("(") || token.is("AS")) => {
                self.resumes = true;
                self.scope().with = true;
                self.skip(&["RECURSIVE"]);
                self.common();
            }
            "WHERE" | "GROUP" | "ORDER" | "HAVING" | "LIMIT" | "OFFSET" | "FETCH" | "FOR" | "UNION"
            | "INTERSECT" | "EXCEPT" | "SET" | "RETURNING" | "WINDOW" | "VALUES" | "WHEN"
                if !start =>
            {
                self.scope().list = false;
            }
            _ if start => self.utility(token, &upper),
            _ => {}
        }
    }

    /// Says whether `INSERT`, `UPDATE`, `DELETE` or `MERGE` after this token is a statement, and not a part of
    /// `FOR UPDATE`, `ON DELETE`, `DO UPDATE`, `THEN INSERT` and the like.
    fn leads(&self, previous: Option<Token<'a>>) -> bool {
        previous.is_some_and(|token| {
            token.is_mark("(")
                || (self.resumes && token.is_mark(")"))
                || ["AS", "EXPLAIN", "ANALYZE", "VERBOSE"].iter().any(|word| token.is(word))
        })
    }

    /// Reads the beginning of a statement that is none of the five.
    fn utility(&mut self, token: Token<'a>, upper: &str) {
        match upper {
            "CREATE" | "ALTER" | "DROP" => self.definition(token),
            "TRUNCATE" | "LOCK" => {
                self.operation(token.text);
                self.skip(&["TABLE"]);
                self.target(Place::Table);
                while self.peek().is_some_and(|token| token.is_mark(",")) {
                    self.at += 1;
                    self.target(Place::Table);
                }
                self.closed = true;
            }
            "COPY" | "TABLE" => {
                self.operation(token.text);
                self.target(Place::Table);
            }
            "CALL" => {
                self.operation(token.text);
                self.procedure = self.target(Place::Other);
            }
            "REFRESH" => {
                let end = self.at;
                self.skip(&["MATERIALIZED", "VIEW"]);
                self.operation_words(token, end);
                self.target(Place::Table);
                self.closed = true;
            }
            "LISTEN" | "UNLISTEN" | "NOTIFY" => {
                self.operation(token.text);
                self.target(Place::Other);
                self.closed = true;
            }
            "START" => {
                let end = self.at;
                self.skip(&["TRANSACTION"]);
                self.operation_words(token, end);
                self.closed = true;
            }
            "DECLARE" | "EXPLAIN" | "PREPARE" => {
                self.operation(token.text);
                self.resumes = true;
            }
            "VALUES" => self.operation(token.text),
            "ABORT" | "ANALYZE" | "BEGIN" | "CHECKPOINT" | "CLOSE" | "CLUSTER" | "COMMENT" | "COMMIT"
            | "DEALLOCATE" | "DISCARD" | "DO" | "END" | "EXECUTE" | "FETCH" | "GRANT" | "IMPORT" | "LOAD"
            | "MOVE" | "REASSIGN" | "REINDEX" | "RELEASE" | "RESET" | "REVOKE" | "ROLLBACK" | "SAVEPOINT"
            | "SECURITY" | "SET" | "SHOW" | "VACUUM" => {
                self.operation(token.text);
                self.closed = true;
            }
            _ => self.closed = true,
        }
    }

    /// `CREATE`, `ALTER` and `DROP`: the kind of thing belongs to the operation.
    fn definition(&mut self, verb: Token<'a>) {
        self.skip(&[
            "OR",
            "REPLACE",
            "GLOBAL",
            "LOCAL",
            "TEMP",
            "TEMPORARY",
            "UNLOGGED",
            "UNIQUE",
            "RECURSIVE",
            "FOREIGN",
            "EVENT",
            "TRUSTED",
            "PROCEDURAL",
            "DEFAULT",
            "CONSTRAINT",
        ]);
        let noun = self.at;
        let word = self.peek().map(|token| token.text.to_ascii_uppercase()).unwrap_or_default();
        self.skip(&["MATERIALIZED"]);
        self.at += 1;
        self.operation_words(verb, noun);
        self.skip(&["CONCURRENTLY"]);
        let relation = matches!(word.as_str(), "TABLE" | "VIEW" | "MATERIALIZED");
        // `CREATE INDEX ON games` has no name.
        if !self.peek().is_some_and(|token| token.is("ON")) {
            self.target(if relation { Place::Table } else { Place::Other });
        }
        // `CREATE TABLE … AS SELECT` and views go on with a statement.
        self.closed = !relation;
    }

    /// Appends a word and the words from `from` up to here as one operation.
    fn operation_words(&mut self, verb: Token<'a>, from: usize) {
        let mut text = verb.text.to_owned();
        for token in self.tokens.get(from..self.at).unwrap_or_default() {
            text.push(' ');
            text.push_str(token.text);
        }
        self.operation(&text);
    }

    fn operation(&mut self, text: &str) {
        self.append(text);
        if self.operation.is_none() {
            self.operation = Some(text.to_owned());
        }
    }

    /// Steps over the name of a common table expression.
    fn common(&mut self) {
        self.name();
    }

    /// Reads a target; what it is called without quotes.
    fn target(&mut self, place: Place) -> Option<String> {
        self.skip(&[
            "ONLY",
            "LATERAL",
            "IF",
            "NOT",
            "EXISTS",
            "TEMP",
            "TEMPORARY",
            "UNLOGGED",
            "TABLE",
            "CONCURRENTLY",
        ]);
        let (written, name) = self.name()?;
        if place == Place::Source && self.peek().is_some_and(|token| token.is_mark("(")) {
            return None;
        }
        self.append(&written);
        Some(name)
    }

    /// Reads a name with its schema: as written, and without quotes.
    fn name(&mut self) -> Option<(String, String)> {
        let (mut written, mut plain) = (String::new(), String::new());
        loop {
            let token = self.peek().filter(|token| matches!(token.kind, Kind::Word | Kind::Quoted));
            let Some(token) = token else { break };
            written.push_str(token.text);
            plain.push_str(&unquoted(token));
            self.at += 1;
            if !self.peek().is_some_and(|token| token.is_mark(".")) {
                break;
            }
            self.at += 1;
            written.push('.');
            plain.push('.');
        }
        (!written.is_empty()).then_some((written, plain))
    }

    fn append(&mut self, text: &str) {
        let separator = if self.summary.is_empty() { "" } else { " " };
        if self.summary.len() + separator.len() + text.len() > MAX_SUMMARY {
            self.full = true;
            return;
        }
        self.summary.push_str(separator);
        self.summary.push_str(text);
    }
}

fn unquoted(token: Token<'_>) -> String {
    let inner = token.text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.map_or_else(|| token.text.to_owned(), |text| text.replace("\"\"", "\""))
}
