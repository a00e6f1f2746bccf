//! WebSocket (RFC 6455) with `permessage-deflate` (RFC 7692), from the handshake on: the messages that the watched
//! process receives, each of which may start work. What it sends says nothing that a span needs.
//!
//! Of Discord's gateway, which is JSON in such messages, the dispatched events are read (`discord`).

mod frame;
mod inflate;
mod late;
#[cfg(test)]
mod tests;

use self::{
    frame::{Frames, Step},
    late::Kept,
};
pub use self::{
    inflate::{Inflate, Unreadable},
    late::Window,
};
use super::{Detail, Event, LossReason, Mark, Parser, Side, Unread, discord};

/// Most bytes of one message that are kept to be read; of a larger one only the size is known.
pub const CONTENT_MAX: usize = 1024 * 1024;

/// What the handshake has agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Request target.
    pub target: String,
    /// `Sec-WebSocket-Extensions` of the response.
    pub extensions: String,
}

/// A message that was received.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Path of the handshake, without the query.
    pub path: String,
    /// The watched process is the server.
    pub served: bool,
    /// Bytes of payload on the wire.
    pub size: u64,
    /// Of Discord's gateway: what it is.
    pub discord: Option<Box<discord::Dispatch>>,
}

impl Message {
    /// Of Discord's gateway: what a user has done.
    pub fn interaction(&self) -> Option<&discord::Interaction> {
        self.discord.as_ref()?.interaction.as_ref()
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct WebSocket {
    path: String,
    /// The half that the watched process receives.
    inbound: Side,
    frames: Frames,
    message: Option<Open>,
    /// Payload without mask and compression.
    content: Vec<u8>,
    unmasked: Vec<u8>,
    deflate: Option<Deflate>,
    gateway: Option<discord::Gateway>,
    /// Messages of a stream that cannot be read until it is known what they refer back to.
    kept: Option<Kept>,
    /// Bytes that were skipped after a loss.
    skipped: u64,
    closed: bool,
}

/// The message under way.
#[derive(Debug)]
struct Open {
    compressed: bool,
    size: u64,
    /// Its content cannot be read, and why.
    unreadable: Option<LossReason>,
}

/// `permessage-deflate`.
#[derive(Debug)]
struct Deflate {
    inflate: Inflate,
    /// The other end begins each message with an empty window (RFC 7692, section 7.1.1).
    no_context_takeover: bool,
}

impl WebSocket {
    /// A connection that has just changed to this protocol; the watched process receives `inbound`.
    pub fn new(opening: &Opening, inbound: Side) -> Self {
        let extension = opening.extensions.split(',').map(str::trim);
        let mut deflate =
            extension.filter(|extension| extension.starts_with("permessage-deflate")).map(|found| {
                let parameter = match inbound {
                    Side::Request => "client_no_context_takeover",
                    Side::Response => "server_no_context_takeover",
                };
                let no_context_takeover = found.split(';').any(|part| part.trim() == parameter);
                Deflate { inflate: Inflate::raw(), no_context_takeover }
            });
        let (path, query) = opening.target.split_once('?').unwrap_or((&opening.target, ""));
        // An absolute target has no path of its own here: what follows the host.
        let path =
            path.split_once("://").map_or(path, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
        let gateway = (inbound == Side::Response).then(|| discord::Gateway::of(query)).flatten();
        Self {
            path: path.to_owned(),
            inbound,
            frames: Frames::new(inbound == Side::Request),
            message: None,
            content: Vec::new(),
            unmasked: Vec::new(),
            deflate: deflate.next_back(),
            gateway,
            kept: None,
            skipped: 0,
            closed: false,
        }
    }

    fn payload(&mut self, bytes: &[u8]) {
        let Some(open) = &mut self.message else { return };
        let transport = self.gateway.as_ref().is_some_and(discord::Gateway::is_compressed);
        // What follows a message that is too large needs its window. Of other messages only the size is wanted.
        let given_up = open.unreadable.is_some_and(|reason| reason != LossReason::TooLarge);
        let is_read = self.gateway.as_ref().is_some_and(|gateway| !gateway.is_unsupported());
        if !is_read || given_up {
            return;
        }
        let is_kept = self.kept.is_some() && transport;
        let inflated = if open.compressed {
            let Some(deflate) = &mut self.deflate else {
                open.unreadable = Some(LossReason::Malformed);
                return;
            };
            deflate.inflate.run(bytes, &mut self.content, CONTENT_MAX)
        } else if let (true, Some(gateway)) = (transport && !is_kept, &mut self.gateway) {
            gateway.inflate(bytes, &mut self.content, CONTENT_MAX)
        } else {
            let room = CONTENT_MAX.saturating_sub(self.content.len());
            self.content.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            Ok(bytes.len() <= room)
        };
        match inflated {
            Ok(true) => {}
            Ok(false) => open.unreadable = Some(LossReason::TooLarge),
            Err(Unreadable) => open.unreadable = Some(LossReason::Malformed),
        }
    }

    fn end(&mut self, at: Mark, out: &mut Vec<Event>) {
        let Some(open) = self.message.take() else { return };
        if self.gateway.as_ref().is_some_and(discord::Gateway::is_unsupported) {
            return out.push(Event::Unread(Unread::Encoding));
        }
        if open.compressed
            && self.gateway.is_some()
            && let Some(deflate) = &mut self.deflate
        {
            // RFC 7692, section 7.2.2: the sender has left these four bytes out.
            let _ = deflate.inflate.run(&[0, 0, 0xff, 0xff], &mut self.content, CONTENT_MAX);
            if deflate.no_context_takeover {
                deflate.inflate = Inflate::raw();
            }
        }
        let content = std::mem::take(&mut self.content);
        if let Some(kept) = &mut self.kept {
            let lost = if open.unreadable.is_some() {
                open.size as usize + kept.clear()
            } else {
                kept.push(at.time, content)
            };
            let resumable = kept.has_patience();
            if lost > 0 {
                out.push(Event::Lost { reason: LossReason::Resync, bytes: lost as u64 });
            }
            if !resumable {
                self.drop_kept(out);
            }
            return out.push(Event::Unread(if resumable { Unread::Window } else { Unread::Reconnect }));
        }
        if let Some(reason) = open.unreadable.filter(|_| self.gateway.is_some()) {
            out.push(Event::Lost { reason, bytes: open.size });
            if self.gateway.as_ref().is_some_and(discord::Gateway::is_lost) {
                out.push(Event::Unread(Unread::Reconnect));
            }
        }
        let discord = match &mut self.gateway {
            Some(_) if open.unreadable.is_some() => return,
            Some(gateway) => match gateway.read(&content) {
                Some(dispatch) => Some(Box::new(dispatch)),
                None if gateway.is_garbled(&content) => {
                    out.push(Event::Lost { reason: LossReason::Malformed, bytes: open.size });
                    return self.lose_window(out);
                }
                None => return,
            },
            None => None,
        };
        let served = self.inbound == Side::Request;
        let message = Message { path: self.path.clone(), served, size: open.size, discord };
        out.push(Event::Push { at, detail: Detail::WebSocket(Box::new(message)) });
    }

    /// Bytes are missing: what is compressed with what came before cannot be read any more.
    fn lose_window(&mut self, out: &mut Vec<Event>) {
        if let Some(deflate) = &mut self.deflate {
            deflate.inflate.lose();
        }
        if let Some(gateway) = &mut self.gateway
            && gateway.lose()
        {
            let bytes = self.kept.get_or_insert_default().clear();
            if bytes > 0 {
                out.push(Event::Lost { reason: LossReason::Resync, bytes: bytes as u64 });
            }
        }
        if let Some(open) = &mut self.message {
            open.unreadable = Some(LossReason::Gap);
        }
        self.content.clear();
    }

    /// Whether a call of `inflate` was given what this connection has received.
    pub fn awaits(&self, window: &Window<'_>) -> bool {
        self.message.is_none()
            && !self.closed
            && self.kept.as_ref().is_some_and(|kept| kept.place(window).is_some())
    }

    /// Goes on from that call; what was kept until then starts no work any more. Returns whether that is possible.
    pub fn resume(&mut self, window: &Window<'_>, out: &mut Vec<Event>) -> bool {
        let (Some(kept), Some(gateway)) = (&self.kept, &mut self.gateway) else { return false };
        let Some(place) = kept.place(window) else { return false };
        if gateway.resume(window.history, kept.behind(place)).is_err() {
            gateway.lose();
            return false;
        }
        self.drop_kept(out);
        true
    }

    /// What was kept is not read any more.
    fn drop_kept(&mut self, out: &mut Vec<Event>) {
        if let Some(bytes) = self.kept.take().map(|mut kept| kept.clear()).filter(|bytes| *bytes > 0) {
            out.push(Event::Lost { reason: LossReason::Resync, bytes: bytes as u64 });
        }
    }

    fn report_skipped(&mut self, out: &mut Vec<Event>) {
        if self.skipped > 0 {
            out.push(Event::Lost { reason: LossReason::Resync, bytes: std::mem::take(&mut self.skipped) });
        }
    }
}

impl Parser for WebSocket {
    fn data(&mut self, side: Side, bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        if side != self.inbound || self.closed {
            return;
        }
        let mut rest = bytes;
        while let Some(step) = self.frames.advance(&mut rest) {
            match step {
                Step::Begin { compressed, .. } => {
                    self.report_skipped(out);
                    self.content.clear();
                    if let Some(deflate) = &mut self.deflate {
                        deflate.inflate.begin();
                    }
                    if let Some(gateway) = &mut self.gateway {
                        gateway.begin();
                    }
                    self.message = Some(Open { compressed, size: 0, unreadable: None });
                }
                Step::Payload(payload, mask) => {
                    if let Some(open) = &mut self.message {
                        open.size += payload.len() as u64;
                    }
                    let mut unmasked = std::mem::take(&mut self.unmasked);
                    unmasked.clear();
                    mask.remove(payload, &mut unmasked);
                    self.payload(&unmasked);
                    self.unmasked = unmasked;
                }
                Step::End => self.end(mark, out),
                Step::Close => {
                    self.closed = true;
                    return;
                }
                Step::Malformed(bytes) => {
                    // The next piece may begin with a frame.
                    self.skipped += bytes + rest.len() as u64;
                    self.message = None;
                    self.lose_window(out);
                    return;
                }
            }
        }
    }

    fn gap(&mut self, side: Side, length: u64, _: Mark, out: &mut Vec<Event>) {
        if side != self.inbound || self.closed {
            return;
        }
        let inside = self.frames.skip(length);
        if let (true, Some(open)) = (inside, &mut self.message) {
            open.size += length;
        } else if !inside {
            self.message = None;
        }
        if !inside {
            out.push(Event::Lost { reason: LossReason::Gap, bytes: length });
        }
        self.lose_window(out);
    }

    fn close(&mut self, _: Mark, out: &mut Vec<Event>) {
        self.report_skipped(out);
        self.drop_kept(out);
    }

    fn windowless(&mut self) -> Option<&mut WebSocket> {
        self.kept.is_some().then_some(self)
    }
}
