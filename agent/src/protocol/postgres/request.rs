//! What the client sends.

use std::{borrow::Cow, sync::Arc};

use super::{
    Kind, Postgres, Prepared, Session, Text,
    pairing::{Expect, Item},
    table::{Portal, Source},
    wire::{self, Cursor, MAX_TEXT, Message},
};
use crate::protocol::Event;

impl Postgres {
    /// Takes one message of the client.
    pub(super) fn request(&mut self, message: &Message, out: &mut Vec<Event>) {
        let mut body = Cursor(&message.body);
        match message.kind {
            wire::STARTUP => self.startup(message, out),
            b'Q' => self.query(message, out),
            b'P' => self.parse(message, out),
            b'B' => self.bind(message, out),
            b'E' => self.execute(message, out),
            b'D' => {
                let kind = body.byte();
                let name = self.name(&mut body);
                let source = match kind {
                    Some(b'S') => Some(self.table.source(&name)),
                    _ => self.table.portal(&name).map(|portal| portal.source.clone()),
                };
                if kind == Some(b'S') {
                    self.pairing.settle_batch(out);
                    self.keep_prepared(|prepared| *prepared.name == *name);
                }
                self.push(Item::new(Expect::Describe, source, message), out);
            }
            b'C' => {
                let kind = body.byte();
                let name = self.name(&mut body);
                match kind {
                    Some(b'S') => self.table.forget(&name),
                    _ => self.table.close(&name),
                }
                self.keep_prepared(|prepared| kind != Some(b'S') || *prepared.name != *name);
                self.pairing.settle_batch(out);
                self.push(Item::new(Expect::Close, None, message), out);
            }
            b'H' => self.pairing.settle_batch(out),
            b'S' => {
                self.pairing.settle_batch(out);
                self.pairing.sync(Item::new(Expect::Sync, None, message));
            }
            b'F' => {
                let oid = body.int32().unwrap_or_default();
                self.prepared = None;
                self.pairing.settle_batch(out);
                self.pairing.starting(message.last, out);
                let number =
                    self.pairing.begin(Kind::Function { oid }, None, message.first, message.last, out);
                self.pairing.queue(
                    Item { exchange: Some(number), ..Item::new(Expect::Function, None, message) },
                    out,
                );
            }
            b'c' | b'f' => self.pairing.copied(Item::new(Expect::CopyEnd, None, message)),
            // Copied data, passwords and Terminate say nothing.
            _ => {}
        }
    }

    /// What was prepared under names that are used again and again is no longer known.
    pub(super) fn doubt(&mut self) {
        self.prepared = None;
        self.table.doubt();
    }

    /// Reads a name. One that was cut through stands for something unknown.
    fn name<'b>(&mut self, body: &mut Cursor<'b>) -> Cow<'b, str> {
        let Some(name) = body.string() else {
            self.doubt();
            return Cow::Borrowed("");
        };
        String::from_utf8_lossy(name)
    }

    fn keep_prepared(&mut self, holds: impl FnOnce(&Prepared) -> bool) {
        if !self.prepared.as_ref().is_some_and(holds) {
            self.prepared = None;
        }
    }

    fn push(&mut self, item: Item, out: &mut Vec<Event>) {
        self.pairing.starting(item.at, out);
        self.pairing.queue(item, out);
    }

    fn startup(&mut self, message: &Message, out: &mut Vec<Event>) {
        match message.code {
            wire::SSL | wire::GSSENC => {
                self.negotiating = true;
                return;
            }
            wire::CANCEL => {
                self.cancel = Some(self.pairing.begin(Kind::Cancel, None, message.first, message.last, out));
                return;
            }
            _ => self.negotiating = false,
        }
        let mut session = Session::default();
        let mut body = Cursor(&message.body);
        while let (Some(key), Some(value)) = (body.string(), body.string()) {
            let value = Some(String::from_utf8_lossy(value).into_owned());
            match key {
                b"user" => session.user = value,
                b"database" => session.database = value,
                b"application_name" => session.application_name = value,
                _ => {}
            }
        }
        if session.database.is_none() {
            session.database.clone_from(&session.user);
        }
        self.pairing.session = Some(Arc::new(session));
        self.requests.startup = false;
        self.push(Item::new(Expect::Startup, None, message), out);
    }

    fn query(&mut self, message: &Message, out: &mut Vec<Event>) {
        self.prepared = None;
        self.pairing.settle_batch(out);
        self.pairing.starting(message.last, out);
        let text = text(&mut Cursor(&message.body), message.whole);
        let source = Some(Source::unnamed(Some(text)));
        let number = self.pairing.begin(Kind::Simple, source, message.first, message.last, out);
        let item = Item { exchange: Some(number), ..Item::new(Expect::Query, None, message) };
        self.pairing.queue(item, out);
    }

    fn parse(&mut self, message: &Message, out: &mut Vec<Event>) {
        let mut body = Cursor(&message.body);
        let known = body.0.contains(&0);
        let name: Arc<str> = self.name(&mut body).into();
        let text = text(&mut body, message.whole);
        let source = Source { name: Arc::clone(&name), text: known.then(|| text.clone()) };
        self.pairing.settle_other_batch(&source, out);
        if known {
            self.prepared = Some(Prepared { name: Arc::clone(&name), first: message.first });
            self.table.prepare(name, text);
        }
        self.push(Item::new(Expect::Parse, Some(source), message), out);
    }

    fn bind(&mut self, message: &Message, out: &mut Vec<Event>) {
        let mut body = Cursor(&message.body);
        let (portal, statement) = (self.name(&mut body), self.name(&mut body));
        let source = self.table.source(&statement);
        let prepared = self.prepared.take().filter(|prepared| *prepared.name == *statement);
        let first = Some(prepared.map_or(message.first, |prepared| prepared.first));
        self.pairing.settle_other_batch(&source, out);
        self.table.bind(&portal, Portal { source: source.clone(), first });
        self.push(Item::new(Expect::Bind, Some(source), message), out);
    }

    fn execute(&mut self, message: &Message, out: &mut Vec<Event>) {
        let name = self.name(&mut Cursor(&message.body));
        self.prepared = None;
        let (source, first) = match self.table.portal(&name) {
            Some(portal) => (portal.source.clone(), portal.first.take()),
            None => (Source::unnamed(None), None),
        };
        self.pairing.starting(message.last, out);
        self.pairing.execute(source, first, message, out);
    }
}

impl Source {
    fn unnamed(text: Option<Text>) -> Self {
        Self { name: Arc::default(), text }
    }
}

/// Reads a statement's text, of which the body may hold only the beginning.
fn text(body: &mut Cursor<'_>, whole: bool) -> Text {
    let all = body.0;
    let end = body.string();
    let bytes = end.unwrap_or(all);
    let kept = bytes.get(..MAX_TEXT).unwrap_or(bytes);
    let truncated = kept.len() < bytes.len() || (end.is_none() && !whole);
    let sql = match std::str::from_utf8(kept) {
        Ok(sql) => Cow::Borrowed(sql),
        // The last character was cut through.
        Err(error) if truncated && error.error_len().is_none() => {
            String::from_utf8_lossy(kept.get(..error.valid_up_to()).unwrap_or_default())
        }
        Err(_) => String::from_utf8_lossy(kept),
    };
    Text { sql: sql.into(), truncated }
}
