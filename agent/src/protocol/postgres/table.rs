//! What the client has prepared: statements and portals by name, bounded.

use std::{collections::HashMap, sync::Arc};

use crate::protocol::Mark;

/// Most prepared statements remembered per connection; asyncpg and psycopg keep 100 by default.
const MAX_STATEMENTS: usize = 1024;
/// Most bytes of statement text remembered per connection.
const MAX_BYTES: usize = 1 << 20;
/// Most portals remembered per connection.
const MAX_PORTALS: usize = 64;

/// The text of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) sql: Arc<str>,
    /// It went on.
    pub(super) truncated: bool,
}

/// A statement as an execution refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Name, empty for the unnamed statement.
    pub(super) name: Arc<str>,
    /// Text, if the preparation was seen.
    pub(super) text: Option<Text>,
}

/// A statement with its parameters.
#[derive(Clone, Debug)]
pub(super) struct Portal {
    pub(super) source: Source,
    /// Where its first execution begins; taken by it.
    pub(super) first: Option<Mark>,
}

/// Texts of prepared statements and the portals made of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    statements: HashMap<Arc<str>, (Text, u64)>,
    portals: HashMap<Arc<str>, (Portal, u64)>,
    bytes: usize,
    uses: u64,
}

impl Table {
    /// Remembers a statement; the ones least recently used make room.
    pub(super) fn prepare(&mut self, name: Arc<str>, text: Text) {
        self.forget(&name);
        self.uses += 1;
        self.bytes += name.len() + text.sql.len();
        self.statements.insert(name, (text, self.uses));
        while self.bytes > MAX_BYTES || self.statements.len() > MAX_STATEMENTS {
            let Some(oldest) = self.statements.iter().min_by_key(|(_, (_, used))| *used) else { break };
            let oldest = Arc::clone(oldest.0);
            self.forget(&oldest);
        }
    }

    /// Drops a statement.
    pub(super) fn forget(&mut self, name: &str) {
        if let Some((name, (text, _))) = self.statements.remove_entry(name) {
            self.bytes -= name.len() + text.sql.len();
        }
    }

    /// Forgets what requests that were not seen may have replaced: names that are used again and again.
    pub(super) fn doubt(&mut self) {
        self.portals.clear();
        self.forget("");
    }

    /// What is known of a statement.
    pub(super) fn source(&mut self, name: &str) -> Source {
        self.uses += 1;
        let text = self.statements.get_mut(name).map(|(text, used)| {
            *used = self.uses;
            text.clone()
        });
        let name =
            self.statements.get_key_value(name).map_or_else(|| name.into(), |(key, _)| Arc::clone(key));
        Source { name, text }
    }

    /// Remembers a portal; the one least recently used makes room.
    pub(super) fn bind(&mut self, name: &str, portal: Portal) {
        self.uses += 1;
        if let Some(slot) = self.portals.get_mut(name) {
            *slot = (portal, self.uses);
            return;
        }
        self.portals.insert(name.into(), (portal, self.uses));
        if self.portals.len() > MAX_PORTALS
            && let Some(oldest) = self.portals.iter().min_by_key(|(_, (_, used))| *used)
        {
            let oldest = Arc::clone(oldest.0);
            self.portals.remove(&oldest);
        }
    }

    /// Drops a portal.
    pub(super) fn close(&mut self, name: &str) {
        self.portals.remove(name);
    }

    /// A portal that was bound before.
    pub(super) fn portal(&mut self, name: &str) -> Option<&mut Portal> {
        self.uses += 1;
        let (portal, used) = self.portals.get_mut(name)?;
        *used = self.uses;
        Some(portal)
    }
}
