//! Jobs that look whether there is something to do, and find nothing.
//!
//! A daemon may ask its database every second for what is due. As long as all that a job has asked for was answered with
//! nothing, its operations are held back; if it ends so, it is counted, and neither it nor they are spans.

use serde::{Deserialize, Serialize};

use super::{Engine, OperationId, UnitId};
use crate::protocol::{Detail, amqp, postgres, redis};

/// What is made of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOptions {
    /// Those that find nothing are spans too.
    pub idle: bool,
}

/// Operations of one job that are held back; one with more is shown.
const HELD_MAX: usize = 256;
/// Tags of statements that change nothing but the session (*SQL Commands*).
const BRACKETS: [&str; 14] = [
    "BEGIN",
    "START TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT",
    "RELEASE",
    "SET",
    "RESET",
    "DISCARD ALL",
    "LISTEN",
    "UNLISTEN",
    "DEALLOCATE",
    "DEALLOCATE ALL",
    "CLOSE CURSOR",
];
/// Statements by which libraries see that a connection is alive, or make it like new (asyncpg's `Connection.reset`).
const HOUSEKEEPING: [&str; 3] =
    ["SELECT 1", ";", "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;"];
/// Statements that look for rows, or change those that they find, and their tags.
const VERBS: [&str; 6] = ["SELECT", "UPDATE", "DELETE", "INSERT", "MERGE", "FETCH"];
/// Commands of Redis that look for something, or take it.
const LOOKS: [&str; 56] = [
    "EXISTS",
    "GET",
    "GETDEL",
    "GETEX",
    "GETRANGE",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HSCAN",
    "HSTRLEN",
    "HVALS",
    "KEYS",
    "LINDEX",
    "LLEN",
    "LMOVE",
    "LMPOP",
    "LPOP",
    "LPOS",
    "LRANGE",
    "MGET",
    "RPOP",
    "RPOPLPUSH",
    "SCARD",
    "SDIFF",
    "SINTER",
    "SISMEMBER",
    "SMEMBERS",
    "SMISMEMBER",
    "SPOP",
    "SRANDMEMBER",
    "SSCAN",
    "STRLEN",
    "SUNION",
    "TTL",
    "TYPE",
    "XAUTOCLAIM",
    "XLEN",
    "XPENDING",
    "XRANGE",
    "XREAD",
    "XREADGROUP",
    "XREVRANGE",
    "ZCARD",
    "ZCOUNT",
    "ZMPOP",
    "ZPOPMAX",
    "ZPOPMIN",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "ZRANK",
    "ZREVRANGE",
    "ZREVRANGEBYSCORE",
    "ZSCORE",
];

/// Commands by which a client of Redis makes a new connection its own, or sees that it is alive.
const CONNECTION: [&str; 7] =
    ["AUTH", "CLIENT MAINT_NOTIFICATIONS", "CLIENT SETINFO", "CLIENT SETNAME", "HELLO", "PING", "SELECT"];
/// Those that clients ask an older server too, which does not know them yet.
const NEW_COMMANDS: [&str; 2] = ["CLIENT MAINT_NOTIFICATIONS", "CLIENT SETINFO"];

/// Whether something was asked for, and there was nothing; or nothing was asked for at all.
pub(super) fn found_nothing(detail: &Detail) -> bool {
    match detail {
        Detail::Postgres(statement) => {
            let tag = statement.tag.as_deref().unwrap_or_default();
            let text = statement.text.as_deref().unwrap_or_default().trim();
            let is_housekeeping = || HOUSEKEEPING.contains(&text);
            // Of several the tag is that of the last one.
            let is_one = !text.trim_end_matches(';').contains(';');
            // `CREATE TABLE … AS` has the tag of its query.
            let first = text.split_ascii_whitespace().next().unwrap_or("SELECT");
            let is_query = VERBS.iter().chain(&["WITH"]).any(|verb| first.eq_ignore_ascii_case(verb));
            let is_empty =
                is_query && statement.rows == Some(0) && VERBS.iter().any(|verb| tag.starts_with(verb));
            statement.error.is_none()
                && statement.ended == postgres::Ended::Complete
                && matches!(statement.kind, postgres::Kind::Simple | postgres::Kind::Extended)
                && (is_one && (is_empty || BRACKETS.contains(&tag)) || is_housekeeping())
        }
        Detail::Redis(batch) => {
            let are = |names: &[&str]| {
                let mut commands = batch.commands.iter();
                batch.commands.len() as u64 == batch.count
                    && commands.all(|command| names.iter().any(|name| command.is_operation(name)))
            };
            let is_fine = batch.error.is_none() || are(&NEW_COMMANDS);
            let is_over = batch.ended == redis::Ended::Complete;
            is_over && is_fine && (batch.nothing && are(&LOOKS) || are(&CONNECTION))
        }
        Detail::Amqp(message) => {
            message.kind == amqp::Kind::Get && message.answer == Some(amqp::Answer::Empty)
        }
        Detail::Http(_) | Detail::WebSocket(_) => false,
    }
}

impl Engine {
    /// Holds an operation back that has found nothing, in a job that has found nothing so far. Whether it did.
    pub(super) fn hold_back(&mut self, id: OperationId) -> bool {
        if self.jobs.idle {
            return false;
        }
        let Some(operation) = self.operations.get(&id) else { return false };
        if !operation.detail.as_ref().is_some_and(found_nothing) {
            return false;
        }
        let owner = self.owner_of(&operation.act).map(|(owner, _)| owner);
        let end = operation.end.unwrap_or(operation.act.start);
        if owner.is_none() || owner != operation.act.job {
            return false;
        }
        let Some(unit) = owner.and_then(|owner| self.units.get_mut(&owner)) else { return false };
        let Some(job) = unit.job.as_deref_mut() else { return false };
        let held = job.first.is_none() && job.held.len() < HELD_MAX;
        if held {
            job.held.push(id);
            job.open = job.open.saturating_sub(1);
            job.last = job.last.max(end);
            unit.end = Some(job.last);
        }
        held
    }

    /// A job has done something: what was held back becomes spans.
    pub(super) fn release(&mut self, unit: UnitId) {
        let Some(job) = self.units.get_mut(&unit).and_then(|unit| unit.job.as_deref_mut()) else { return };
        let held = std::mem::take(&mut job.held);
        job.open += held.len() as u32;
        for id in held {
            self.emit_operation(id);
        }
    }

    /// A job is over and has found nothing.
    pub(super) fn drop_idle(&mut self, unit: UnitId) {
        let Some(job) = self.units.get_mut(&unit).and_then(|unit| unit.job.as_deref_mut()) else { return };
        let held = std::mem::take(&mut job.held);
        if held.is_empty() {
            return;
        }
        self.counters.idle_jobs += 1;
        for id in held {
            if let Some(operation) = self.operations.get_mut(&id) {
                let (act, connection) = (operation.act.clone(), operation.connection);
                if let Some(mut detail) = operation.detail.take() {
                    // A text that was read need not be read again.
                    self.recall_text(&act, connection, &mut detail);
                }
                self.note_handler(unit, &act, false);
            }
            self.retire(id, [0; 16]);
        }
        let Some(unit) = self.units.get(&unit) else { return };
        let function = unit.handler.as_ref().map(|handler| handler.name.as_str());
        self.measures.idle(unit.pid, function.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        Event, Mark, Parser, Side,
        postgres::{Ended, Kind, PgError, Statement},
        redis::Redis,
    };

    fn statement(text: &str, tag: &str, rows: Option<u64>) -> Statement {
        Statement {
            kind: Kind::Extended,
            text: Some(text.into()),
            truncated: false,
            name: None,
            tag: Some(tag.to_owned()),
            rows,
            returns_rows: tag.starts_with("SELECT"),
            error: None,
            session: None,
            ended: Ended::Complete,
            batch: None,
            statements: None,
            transaction: None,
        }
    }

    fn nothing(statement: Statement) -> bool {
        found_nothing(&Detail::Postgres(Box::new(statement)))
    }

    #[test]
    fn a_statement_finds_nothing_without_rows() {
        assert!(nothing(statement("SELECT id FROM jobs WHERE due", "SELECT 0", Some(0))));
        assert!(!nothing(statement("SELECT id FROM jobs WHERE due", "SELECT 3", Some(3))));
        assert!(!nothing(statement("SELECT id FROM jobs WHERE due", "SELECT 0", None)), "not all was seen");
        assert!(nothing(statement("UPDATE jobs SET taken = true", "UPDATE 0", Some(0))));
        assert!(!nothing(statement("UPDATE jobs SET taken = true", "UPDATE 1", Some(1))));
        assert!(!nothing(statement("CREATE TABLE jobs ()", "CREATE TABLE", Some(0))));
        assert!(!nothing(statement("NOTIFY jobs", "NOTIFY", Some(0))));
    }

    #[test]
    fn what_only_keeps_a_connection_in_order_finds_nothing() {
        assert!(nothing(statement("BEGIN", "BEGIN", None)));
        assert!(nothing(statement("SELECT 1", "SELECT 1", Some(1))), "a ping");
        assert!(!nothing(statement("SELECT 1 FROM jobs", "SELECT 1", Some(1))));
        assert!(!nothing(statement("INSERT INTO jobs VALUES (1); COMMIT", "COMMIT", None)), "of several");
        assert!(!nothing(statement("UPDATE a SET b = 1; SELECT c", "SELECT 0", Some(0))));
        assert!(!nothing(statement("CREATE TABLE a AS SELECT b", "SELECT 0", Some(0))));
        let reset = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;";
        assert!(nothing(statement(reset, "RESET", Some(1))));
    }

    /// A command of Redis and its reply.
    fn redis_nothing(words: &[&str], reply: &str) -> bool {
        let mark = Mark { time: 1, pid: 7, tid: 8, context: 9, stack: 0 };
        let bulks = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let request = format!("*{}\r\n{}", words.len(), bulks.collect::<String>());
        let (mut parser, mut events) = (Redis::new(true), Vec::new());
        parser.data(Side::Request, request.as_bytes(), mark, &mut events);
        parser.data(Side::Response, reply.as_bytes(), mark, &mut events);
        let ended = events.iter().find_map(|event| match event {
            Event::End { detail, .. } => Some(found_nothing(detail)),
            _ => None,
        });
        ended.expect("it has ended")
    }

    #[test]
    fn a_command_finds_nothing_with_an_empty_reply() {
        assert!(redis_nothing(&["GET", "due"], "$-1\r\n"));
        assert!(!redis_nothing(&["GET", "due"], "$1\r\n7\r\n"));
        assert!(redis_nothing(&["ZRANGE", "due", "0", "1"], "*0\r\n"));
        assert!(!redis_nothing(&["SREM", "due", "7"], ":0\r\n"), "it may change something");
    }

    #[test]
    fn a_new_connection_of_redis_finds_nothing() {
        assert!(redis_nothing(&["HELLO", "3"], "*2\r\n$5\r\nproto\r\n:3\r\n"));
        assert!(redis_nothing(&["CLIENT", "SETINFO", "LIB-NAME", "redis-py"], "+OK\r\n"));
        assert!(redis_nothing(&["CLIENT", "MAINT_NOTIFICATIONS", "ON"], "-ERR unknown subcommand\r\n"));
        assert!(!redis_nothing(&["CLIENT", "KILL", "ID", "7"], ":1\r\n"));
        assert!(!redis_nothing(&["AUTH", "secret"], "-WRONGPASS invalid\r\n"), "it was refused");
    }

    #[test]
    fn what_has_failed_has_found_something() {
        let error = Some(PgError { sqlstate: "42P01".into(), severity: "ERROR".into() });
        assert!(!nothing(Statement { error, ..statement("SELECT 1", "", None) }));
        assert!(!nothing(Statement { ended: Ended::Gap, ..statement("SELECT 1", "SELECT 1", Some(1)) }));
    }
}
