//! Protocols: bytes of one connection in, operations out.
//!
//! A protocol is one folder. Its parser is pure: no I/O, no clock, no randomness; the same bytes give the same
//! events however they are cut. Bad or missing bytes give a counted [`Event::Lost`] and a resynchronisation, never a
//! panic and never unbounded memory.

pub mod amqp;
pub mod discord;
pub mod http;
pub mod http2;
pub mod postgres;
#[cfg(test)]
mod recording;
pub mod redis;
pub mod tls;
pub mod websocket;

/// Who moved a piece of captured bytes, and when. Parsers copy marks, they never look into them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Time of the system call's end, nanoseconds of the kernel's monotonic clock.
    pub time: u64,
    /// Process (kernel `tgid`) that made the call.
    pub pid: u32,
    /// Thread (kernel `pid`) that made the call.
    pub tid: u32,
    /// The engine's index of the Python context that was current; 0 where there was none.
    pub context: u32,
    /// The engine's number of the stack from which the call was made; 0 where it is not known.
    pub stack: u32,
}

/// Which half of a connection, by meaning and not by direction: a watched client sends requests, a watched server
/// receives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Bytes that travel from the client to the server.
    Request,
    /// Bytes that travel from the server to the client.
    Response,
}

/// What a first look at the bytes of one half of a connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// This protocol it is not.
    No,
    /// A prefix that could still become this protocol: more bytes are needed.
    More,
    /// It is this protocol, and these bytes are of this side.
    Yes(Side),
}

/// Trace context that the peer sent along (W3C Trace Context header values, verbatim).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// The `traceparent` header.
    pub traceparent: String,
    /// The `tracestate` header, empty where there was none.
    pub tracestate: String,
}

/// Why bytes of a connection could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReason {
    /// Bytes that the capture did not copy, outside any body of known length.
    Gap,
    /// Bytes that are not valid in the protocol.
    Malformed,
    /// A message larger than the parser's bound.
    TooLarge,
    /// Bytes skipped until the next message boundary was found.
    Resync,
}

/// What a parser has understood. `exchange` numbers the exchanges of one connection from 0, in request order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A request is known to be one: its first complete head, statement or command has been seen.
    Begin {
        /// Number of the exchange.
        exchange: u64,
        /// Mark of the first byte of the request.
        first: Mark,
        /// Mark of the byte that completed the head.
        at: Mark,
        /// Trace context that came with it.
        incoming: Option<Box<Incoming>>,
    },
    /// The first byte of the final response has been seen.
    Reply {
        /// Number of the exchange.
        exchange: u64,
        /// Mark of that byte.
        at: Mark,
    },
    /// The exchange is over.
    End {
        /// Number of the exchange.
        exchange: u64,
        /// Mark of the last byte of the response, or of the close that cut it short.
        at: Mark,
        /// What it was.
        detail: Detail,
    },
    /// Something the server said unasked (a Postgres notification, a Redis push message).
    Push {
        /// Mark of its last byte.
        at: Mark,
        /// What it was.
        detail: Detail,
    },
    /// A message was delivered completely (method, properties, body). It may start work.
    Delivery {
        /// Number of the delivery on this connection, from 0.
        delivery: u64,
        /// Mark of the first byte of the delivery's method frame.
        first: Mark,
        /// Mark of its last byte.
        at: Mark,
        /// What it was.
        detail: Detail,
    },
    /// A delivery was settled: acknowledged, refused, or its channel or connection has ended before.
    Settle {
        /// Number of the delivery.
        delivery: u64,
        /// Mark of the last byte of what settled it.
        at: Mark,
        /// How.
        outcome: amqp::Outcome,
    },
    /// A published message has left completely; the exchange itself ends with its confirm.
    Sent {
        /// Number of the exchange.
        exchange: u64,
        /// Mark of the message's last byte.
        at: Mark,
        /// What it is.
        message: Box<amqp::Message>,
    },
    /// The connection changes protocol here (HTTP `101`, `CONNECT`, Postgres's `SSLRequest`); the parser takes no more bytes. The exchange
    /// itself has ended with an [`Event::End`] before.
    Upgrade {
        /// Lower-case name from the `Upgrade` header, `connect` for a tunnel, `tls` where encryption begins.
        protocol: String,
        /// Mark of the byte that completed the change.
        at: Mark,
        /// Of a WebSocket: what its handshake has agreed on.
        opening: Option<Box<websocket::Opening>>,
        /// Bytes of the request side that already belong to the new protocol.
        request: Vec<u8>,
        /// Bytes of the response side that already belong to the new protocol.
        response: Vec<u8>,
    },
    /// A message of a gateway cannot be read.
    Unread(Unread),
    /// Bytes were not understood.
    Lost {
        /// Why.
        reason: LossReason,
        /// How many.
        bytes: u64,
    },
}

/// What messages of a gateway want to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unread {
    /// What their compressed stream refers back to, by [`websocket::WebSocket::resume`].
    Window,
    /// That the stream begins anew: what it refers back to will not be known.
    Reconnect,
    /// An encoding that is not supported (Erlang's external term format).
    Encoding,
}

/// One understood operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    /// An HTTP request and its response.
    Http(Box<http::Exchange>),
    /// A Postgres statement and its outcome, or a notification.
    Postgres(Box<postgres::Statement>),
    /// A Redis command or pipeline and its outcome, or a push message.
    Redis(Box<redis::Batch>),
    /// An AMQP 0-9-1 message, or another operation on a channel.
    Amqp(Box<amqp::Message>),
    /// A message that was received over a WebSocket.
    WebSocket(Box<websocket::Message>),
}

/// The state of one connection in one protocol.
pub trait Parser: Send {
    /// Takes bytes of one side, in the order in which they were on the wire.
    fn data(&mut self, side: Side, bytes: &[u8], mark: Mark, out: &mut Vec<Event>);
    /// `length` bytes of this side follow that were not captured.
    fn gap(&mut self, side: Side, length: u64, mark: Mark, out: &mut Vec<Event>);
    /// The connection is closed. Exchanges still open end now, marked as cut short.
    fn close(&mut self, mark: Mark, out: &mut Vec<Event>);
    /// The connection of a compressed stream that cannot be read yet, as it is not known what it refers back to.
    fn windowless(&mut self) -> Option<&mut websocket::WebSocket> {
        None
    }
}
