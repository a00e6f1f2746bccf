//! Sessions of Postgres that may have notified others: by `NOTIFY`, `pg_notify`, or a trigger of what they change.
//!
//! A notification bears the process id of the server's side of the session, which the session was told when it began.
//! Of a session that is older than the agent it shows when one of its statements holds the very text of a notification.

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;

use super::{OperationId, publishes::Place};
use crate::protocol::postgres::{Statement, Transaction, notification_digest};

/// Statements of one session that are remembered.
const SENDINGS_MAX: usize = 64;
/// Statements of one transaction that are remembered.
const TRANSACTION_MAX: usize = 64;
/// Sessions that are remembered.
const SESSIONS_MAX: usize = 4096;
/// Literals of one statement that are looked at.
const LITERALS_MAX: usize = 64;
/// How long a notification may be on its way, nanoseconds.
const ON_ITS_WAY: u64 = 5_000_000_000;

/// A notification as it was received.
pub(super) struct Notification {
    /// Process id of the session that has sent it.
    pub(super) pid: u32,
    pub(super) channel: String,
    /// Of channel and payload.
    pub(super) digest: u64,
}

/// A statement that may have sent a notification.
struct Sending {
    operation: OperationId,
    span: Option<([u8; 16], [u8; 8])>,
    start: u64,
    /// When it, or the end of its transaction, was said and was answered.
    sent: (u64, u64),
    /// Number of the statement in its session.
    number: u64,
    /// Its text, where that speaks of notifying; else a trigger may have done it.
    text: Option<Arc<str>>,
}

#[derive(Default)]
struct Session {
    transaction: Vec<Sending>,
    sendings: VecDeque<Sending>,
    next: u64,
    /// What each listening connection was told of last.
    told: FxHashMap<u64, u64>,
    last: u64,
}

/// All of them.
#[derive(Default)]
pub(super) struct Notifiers {
    /// By the session's connection.
    sessions: FxHashMap<u64, Session>,
    /// Connection by the process id of the server's side.
    by_pid: FxHashMap<u32, u64>,
}

fn speaks_of_notifying(text: &str) -> bool {
    const WORD: &[u8] = b"notify";
    text.as_bytes().windows(WORD.len()).any(|word| word.eq_ignore_ascii_case(WORD))
}

fn changes(tag: &str) -> bool {
    ["INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "CALL", "DO"].iter().any(|verb| tag.starts_with(verb))
}

impl Sending {
    /// Whether its text names the channel.
    fn names(&self, notification: &Notification) -> bool {
        self.text.as_deref().is_some_and(|text| text.contains(&notification.channel))
    }

    /// Whether its text holds the notification's payload.
    fn holds(&self, notification: &Notification) -> bool {
        let Some(text) = self.text.as_deref() else { return false };
        let literals = text.split('\'').skip(1).step_by(2).take(LITERALS_MAX);
        literals.into_iter().any(|literal| {
            notification_digest(&notification.channel, literal.as_bytes()) == notification.digest
        })
    }

    fn may_have_sent(&self, time: u64) -> bool {
        self.sent.0 <= time && self.sent.1 + ON_ITS_WAY > time
    }
}

impl Notifiers {
    /// A statement has ended, begun and answered at these times.
    pub(super) fn said(
        &mut self,
        connection: u64,
        operation: OperationId,
        statement: &Statement,
        sent: (u64, u64),
    ) {
        let tag = statement.tag.as_deref().unwrap_or_default();
        let text = statement.text.as_ref().filter(|text| speaks_of_notifying(text)).cloned();
        let ends = matches!(tag, "COMMIT" | "ROLLBACK");
        let listens = matches!(tag, "LISTEN" | "UNLISTEN");
        if listens || text.is_none() && !ends && !changes(tag) {
            return;
        }
        if self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&connection) {
            return;
        }
        if let Some(pid) = statement.session.as_ref().and_then(|session| session.backend) {
            self.by_pid.insert(pid, connection);
        }
        let session = self.sessions.entry(connection).or_default();
        session.last = sent.1;
        session.next += 1;
        let sending = Sending { operation, span: None, start: sent.0, sent, number: session.next, text };
        match tag {
            "ROLLBACK" => session.transaction.clear(),
            "COMMIT" => session.commit(sending),
            _ if statement.transaction == Some(Transaction::Active) => {
                if session.transaction.len() < TRANSACTION_MAX {
                    session.transaction.push(sending);
                }
            }
            _ => session.add(sending),
        }
    }

    /// The statement behind a notification that a listening connection has got at `time`, and when it began.
    pub(super) fn find(
        &mut self,
        notification: &Notification,
        listener: u64,
        time: u64,
    ) -> Option<(OperationId, Place, u64)> {
        let connection = match self.by_pid.get(&notification.pid) {
            Some(connection) => *connection,
            None => self.learn(notification, time)?,
        };
        let session = self.sessions.get_mut(&connection)?;
        let told = session.told.get(&listener).copied().unwrap_or(0);
        let found = session.find(notification, told, time)?;
        let place = found
            .span
            .map_or(Place::Open(found.operation), |(trace_id, span_id)| Place::Made(trace_id, span_id));
        let (number, found) = (found.number, (found.operation, place, found.start));
        session.told.insert(listener, number.max(told));
        Some(found)
    }

    /// Finds the session of a process id by the text of what it has sent.
    fn learn(&mut self, notification: &Notification, time: u64) -> Option<u64> {
        let known: rustc_hash::FxHashSet<u64> = self.by_pid.values().copied().collect();
        let mut holding = self.sessions.iter().filter(|(connection, session)| {
            let mut sendings = session.sendings.iter();
            !known.contains(connection)
                && sendings.any(|sending| sending.may_have_sent(time) && sending.holds(notification))
        });
        let connection = *holding.next()?.0;
        if holding.next().is_some() {
            return None;
        }
        self.by_pid.insert(notification.pid, connection);
        Some(connection)
    }

    /// The span of a statement is made.
    pub(super) fn made(
        &mut self,
        connection: u64,
        operation: OperationId,
        trace_id: [u8; 16],
        span_id: [u8; 8],
    ) {
        let Some(session) = self.sessions.get_mut(&connection) else { return };
        let all = session.sendings.iter_mut().chain(&mut session.transaction);
        for sending in all.filter(|sending| sending.operation == operation) {
            sending.span = Some((trace_id, span_id));
        }
    }

    /// Forgets what is too old.
    pub(super) fn sweep(&mut self, now: u64) {
        self.sessions.retain(|_, session| session.last + super::ENDED_KEPT > now);
        let sessions = &self.sessions;
        self.by_pid.retain(|_, connection| sessions.contains_key(connection));
    }
}

impl Session {
    fn add(&mut self, sending: Sending) {
        self.sendings.push_back(sending);
        if self.sendings.len() > SENDINGS_MAX {
            self.sendings.pop_front();
        }
    }

    /// The statement that has sent a notification, for a listener that was told of number `told` last.
    fn find(&self, notification: &Notification, told: u64, time: u64) -> Option<&Sending> {
        let in_time = || self.sendings.iter().filter(|sending| sending.may_have_sent(time));
        let new = || in_time().filter(|sending| sending.number > told);
        if let Some(sure) = new().chain(in_time()).find(|sending| sending.holds(notification)) {
            return Some(sure);
        }
        // They come in their order; before the first it is not known what the listener was told of.
        let next = |fits: &dyn Fn(&Sending) -> bool| {
            let mut fitting = new().filter(|sending| fits(sending));
            if told == 0 { fitting.last() } else { fitting.next() }
        };
        // Of a transaction several may come.
        let again = |fits: &dyn Fn(&Sending) -> bool| {
            in_time().find(|sending| sending.number == told).filter(|sending| fits(sending))
        };
        // Those that name the channel come before those that only notify, and those before triggers.
        let notifies = |sending: &Sending| sending.text.is_some();
        next(&|sending| sending.names(notification))
            .or_else(|| next(&notifies))
            .or_else(|| again(&notifies))
            .or_else(|| next(&|_| true))
            .or_else(|| again(&|_| true))
    }

    /// What a transaction has to tell is sent with its end: by its statements that speak of notifying, else by the one
    /// that changes something, else (any of them may have) by the end itself.
    fn commit(&mut self, commit: Sending) {
        let mut transaction = std::mem::take(&mut self.transaction);
        let sent = commit.sent;
        if transaction.iter().any(|sending| sending.text.is_some()) {
            transaction.retain(|sending| sending.text.is_some());
        } else if transaction.len() > 1 {
            transaction = vec![commit];
        }
        for sending in transaction {
            self.add(Sending { sent, ..sending });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::{Ended, Kind, Session as PgSession};

    fn statement(text: &str, tag: &str, active: bool, backend: Option<u32>) -> Statement {
        Statement {
            kind: Kind::Simple,
            text: Some(text.into()),
            truncated: false,
            name: None,
            tag: Some(tag.to_owned()),
            rows: None,
            returns_rows: false,
            error: None,
            session: Some(Arc::new(PgSession { backend, ..PgSession::default() })),
            ended: Ended::Complete,
            batch: None,
            statements: None,
            transaction: Some(if active { Transaction::Active } else { Transaction::Idle }),
        }
    }

    /// Statements of one session, each a microsecond long, one behind the other.
    fn say(notifiers: &mut Notifiers, connection: u64, backend: Option<u32>, said: &[(&str, &str, bool)]) {
        for (number, (text, tag, active)) in said.iter().enumerate() {
            let start = 1000 * (number as u64 + 1);
            let statement = statement(text, tag, *active, backend);
            let id = OperationId(connection * 100 + number as u64);
            notifiers.said(connection, id, &statement, (start, start + 900));
        }
    }

    fn find(notifiers: &mut Notifiers, pid: u32, payload: &str, time: u64) -> Option<u64> {
        let digest = notification_digest("jobs", payload.as_bytes());
        let notification = Notification { pid, channel: "jobs".to_owned(), digest };
        notifiers.find(&notification, 9, time).map(|(operation, ..)| operation.0)
    }

    #[test]
    fn the_payload_decides_where_the_text_holds_it() {
        let mut notifiers = Notifiers::default();
        let said = [("NOTIFY jobs, 'a'", "NOTIFY", false), ("NOTIFY jobs, 'b'", "NOTIFY", false)];
        say(&mut notifiers, 1, Some(7), &said);
        assert_eq!(find(&mut notifiers, 7, "b", 5000), Some(101));
        assert_eq!(find(&mut notifiers, 7, "a", 5000), Some(100));
        assert_eq!(find(&mut notifiers, 8, "a", 5000), None, "another session's");
    }

    #[test]
    fn parameters_are_told_by_their_order() {
        let mut notifiers = Notifiers::default();
        let said = [("SELECT pg_notify($1, $2)", "SELECT 1", false); 3];
        say(&mut notifiers, 1, Some(7), &said);
        assert_eq!(find(&mut notifiers, 7, "a", 1500), Some(100));
        assert_eq!(find(&mut notifiers, 7, "b", 9000), Some(101));
        assert_eq!(find(&mut notifiers, 7, "c", 9000), Some(102));
    }

    #[test]
    fn a_trigger_is_told_by_the_only_change_or_else_by_the_end() {
        let mut notifiers = Notifiers::default();
        say(&mut notifiers, 1, Some(7), &[("INSERT INTO plays VALUES (1)", "INSERT 0 1", false)]);
        assert_eq!(find(&mut notifiers, 7, "a", 5000), Some(100));
        let one = [
            ("SELECT 1", "SELECT 1", true),
            ("UPDATE plays SET id = 1", "UPDATE 1", true),
            ("COMMIT", "COMMIT", true),
        ];
        say(&mut notifiers, 2, Some(8), &one);
        assert_eq!(find(&mut notifiers, 8, "a", 5000), Some(201));
        let two = [
            ("UPDATE plays SET id = 1", "UPDATE 1", true),
            ("DELETE FROM plays", "DELETE 1", true),
            ("COMMIT", "COMMIT", true),
        ];
        say(&mut notifiers, 3, Some(9), &two);
        assert_eq!(find(&mut notifiers, 9, "a", 5000), Some(302));
    }

    #[test]
    fn what_was_rolled_back_has_told_nothing() {
        let mut notifiers = Notifiers::default();
        let said = [
            ("NOTIFY jobs, 'a'", "NOTIFY", true),
            ("ROLLBACK", "ROLLBACK", true),
            ("COMMIT", "COMMIT", true),
        ];
        say(&mut notifiers, 1, Some(7), &said);
        assert_eq!(find(&mut notifiers, 7, "a", 5000), None);
    }

    #[test]
    fn an_older_session_is_found_by_what_it_has_said() {
        let mut notifiers = Notifiers::default();
        let said = [("NOTIFY jobs, 'a'", "NOTIFY", false), ("SELECT pg_notify($1, $2)", "SELECT 1", false)];
        say(&mut notifiers, 1, None, &said);
        assert_eq!(find(&mut notifiers, 7, "b", 9000), None, "it could be anybody's");
        assert_eq!(find(&mut notifiers, 7, "a", 9000), Some(100));
        assert_eq!(find(&mut notifiers, 7, "b", 9000), Some(101), "from now on it is known");
    }
}
