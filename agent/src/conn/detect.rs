//! Which protocol a connection speaks.

use super::{Connection, Counters, Direction, Protocol, State, side};
use crate::{
    protocol::{
        self, Event, Guess, Mark, Parser, Side, amqp, http, http2, postgres, redis, websocket::WebSocket,
    },
    signal::Role,
};

/// Pieces of a new connection that are tried for a protocol before it is given up.
const TRIES_MAX: u32 = 32;
/// Bytes kept while several protocols are possible.
const UNDECIDED_MAX: usize = 1024;

type Detect = fn(&[u8]) -> Guess;
/// Starts a parser: whether the connection was seen to begin, and whether it is encrypted.
type Start = fn(bool, bool) -> Box<dyn Parser>;

/// The one table of protocols: how to know one, how to start its parser.
const PROTOCOLS: [(Protocol, Detect, Start); 5] = [
    (Protocol::Http, http::detect, |_, encrypted| {
        Box::new(if encrypted { http::Http::secure() } else { http::Http::new() })
    }),
    (Protocol::Http2, http2::detect, |from_start, encrypted| {
        Box::new(http2::Http2::new(from_start, encrypted))
    }),
    (Protocol::Postgres, postgres::detect, |_, _| Box::new(postgres::Postgres::new())),
    (Protocol::Redis, redis::detect, |from_start, _| Box::new(redis::Redis::new(from_start))),
    (Protocol::Amqp, amqp::detect, |_, _| Box::new(amqp::Amqp::new())),
];

impl Connection {
    /// Looks for the protocol: once, at the first bytes that say it.
    pub(super) fn decide(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        mark: Mark,
        events: &mut Vec<Event>,
        counters: &mut Counters,
    ) {
        let State::Undecided { tries, kept } = &mut self.state else { return };
        *tries += 1;
        let mut joined: Vec<u8> = kept
            .iter()
            .filter(|piece| piece.0 == direction)
            .flat_map(|piece| piece.1.iter().copied())
            .collect();
        joined.extend_from_slice(&bytes[..bytes.len().min(UNDECIDED_MAX)]);
        let mut more = false;
        if self.tls.is_none() {
            match protocol::tls::begins(&joined) {
                Some(true) => {
                    for (direction, bytes, _) in std::mem::take(kept) {
                        self.encrypt(direction, &bytes, counters);
                    }
                    return self.encrypt(direction, bytes, counters);
                }
                Some(false) => {}
                None => more = true,
            }
        }
        for (protocol, detect, start) in PROTOCOLS {
            let found = match detect(&joined) {
                Guess::No => continue,
                Guess::More => {
                    more = true;
                    continue;
                }
                Guess::Yes(found) => found,
            };
            let role = match (found, direction) {
                (Side::Request, Direction::Sent) | (Side::Response, Direction::Received) => Role::Client,
                (Side::Request, Direction::Received) | (Side::Response, Direction::Sent) => Role::Server,
            };
            if self.role.is_some_and(|known| known != role) {
                // Whoever connects may be the one that is asked, but not in these protocols.
                continue;
            }
            // Only who connects or accepts is known before the first bytes.
            let mut parser = start(self.role.is_some(), self.tls.is_some());
            for (direction, bytes, mark) in kept.drain(..) {
                parser.data(side(role, direction), &bytes, mark, events);
            }
            parser.data(side(role, direction), bytes, mark, events);
            self.state = State::Parsing { protocol, parser, role };
            return;
        }
        let late = (self.role.is_none() && direction == Direction::Received).then(|| WebSocket::late(bytes));
        if let Some(mut parser) = late.flatten() {
            parser.data(Side::Response, bytes, mark, events);
            let (protocol, parser) = (Protocol::WebSocket, Box::new(parser));
            self.state = State::Parsing { protocol, parser, role: Role::Client };
            return;
        }
        let held: usize = kept.iter().map(|piece| piece.1.len()).sum();
        if more && held + bytes.len() <= UNDECIDED_MAX {
            kept.push((direction, bytes.to_vec(), mark));
        } else {
            kept.clear();
            self.whole = false;
            counters.opaque_bytes += bytes.len() as u64;
        }
        if *tries >= TRIES_MAX {
            counters.opaque += 1;
            self.state = State::Opaque;
        }
    }
}
