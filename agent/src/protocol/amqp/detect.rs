//! The first look at a connection.

use super::{
    methods::{self, Method, Sender},
    search::{Look, look},
    wire::{FRAME_END, HEAD, Head, Limits, OVERHEAD, frame},
};
use crate::protocol::{Guess, Side};

/// Longest frame of which the end is waited for, bytes; a longer method is believed by its head.
const MAX_WAIT: usize = 768;

/// Says whether the first bytes of one half of a connection are AMQP 0-9-1, and of which side.
///
/// The protocol header decides, or the first method that only one side sends. Heartbeats, content and methods of either
/// side (`basic.ack`, `channel.close`) decide nothing, but what follows them may. Other versions of AMQP are not
/// claimed.
pub fn detect(bytes: &[u8]) -> Guess {
    let limits = Limits::default();
    let mut rest = bytes;
    loop {
        // Whether a long frame is sound in itself must not matter once it has been judged by its head.
        let head = rest.get(..HEAD + methods::ID).unwrap_or(rest);
        if matches!(look(head, limits), Look::More(need) if need > MAX_WAIT) {
            return believe(rest);
        }
        let length = match look(rest, limits) {
            Look::No if rest.first() == Some(&frame::BODY) => match body(rest, limits) {
                Look::Frame { length, .. } => length,
                Look::More(_) => return Guess::More,
                Look::No => return Guess::No,
            },
            Look::No => return Guess::No,
            Look::More(_) => return Guess::More,
            Look::Frame { sender: Sender::Client, .. } => return Guess::Yes(Side::Request),
            Look::Frame { sender: Sender::Broker, .. } => return Guess::Yes(Side::Response),
            Look::Frame { length, .. } => length,
        };
        rest = rest.get(length..).unwrap_or_default();
    }
}

/// Judges a long frame by its head.
fn believe(bytes: &[u8]) -> Guess {
    let method = bytes.get(HEAD..).and_then(Method::of).filter(|_| bytes.first() == Some(&frame::METHOD));
    match method.map(|method| method.sender) {
        Some(Sender::Client) => Guess::Yes(Side::Request),
        Some(Sender::Broker) => Guess::Yes(Side::Response),
        // Long content is nothing to begin with.
        Some(Sender::Either) | None => Guess::No,
    }
}

/// A body frame, which begins connections that are seen from the middle.
fn body(bytes: &[u8], limits: Limits) -> Look {
    let Some(head) = Head::read(bytes) else { return Look::More(HEAD) };
    let length = head.size as usize + OVERHEAD as usize;
    match bytes.get(length.saturating_sub(1)) {
        _ if !limits.accept(head) || length > MAX_WAIT => Look::No,
        None => Look::More(length),
        Some(&FRAME_END) => Look::Frame { length, sender: Sender::Either },
        Some(_) => Look::No,
    }
}
