//! Discord's gateway and what of its REST interface belongs to it: the JSON in the messages of a WebSocket.
//!
//! Source: <https://discord.com/developers/docs/events/gateway>, `…/events/gateway-events`,
//! `…/interactions/receiving-and-responding`. Read are names and ids; neither contents, nor option values, nor tokens.

mod interaction;
mod rest;
mod span;
#[cfg(test)]
mod tests;

use serde::Deserialize;

pub use interaction::{Interaction, Kind};
pub use rest::{answered, redacted};
pub use span::describe;

use super::websocket::{Inflate, Unreadable};

/// `op` of a dispatched event.
const DISPATCH: u8 = 0;
/// The first byte of a term (Erlang's External Term Format, "Introduction").
const ERLANG: u8 = 131;
/// A payload's first bytes of zlib: deflate with a window of up to 32 KiB (RFC 1950, section 2.2).
const ZLIB: u8 = 0x78;

/// An event that the gateway has dispatched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dispatch {
    /// Name of the event (`t`).
    pub event: String,
    /// Where, as far as it says so.
    pub guild: Option<String>,
    /// Likewise.
    pub channel: Option<String>,
    /// Who.
    pub user: Option<String>,
    /// Number of the shard that has received it.
    pub shard: Option<u32>,
    /// Of `INTERACTION_CREATE`.
    pub interaction: Option<Interaction>,
}

/// A gateway connection.
#[derive(Debug)]
pub struct Gateway {
    /// All messages are one stream (`compress=zlib-stream` or `zstd-stream`).
    stream: Option<Inflate>,
    /// It is Erlang's external term format, not JSON.
    unsupported: bool,
    /// It has begun in the middle of its stream.
    resumed: bool,
    shard: Option<u32>,
}

/// The outer object of a payload.
#[derive(Deserialize)]
struct Payload<'a> {
    op: u8,
    #[serde(borrow)]
    t: Option<std::borrow::Cow<'a, str>>,
}

/// The ids that most events have.
#[derive(Default, Deserialize)]
struct Ids {
    #[serde(default)]
    guild_id: Option<String>,
    #[serde(default)]
    channel_id: Option<String>,
    #[serde(default)]
    user_id: Option<String>,
    #[serde(default)]
    author: Option<User>,
    #[serde(default)]
    shard: Option<[u32; 2]>,
}

#[derive(Deserialize)]
struct User {
    id: String,
}

/// `d` of a payload, read as something.
#[derive(Deserialize)]
struct Body<T> {
    d: T,
}

impl Gateway {
    /// The gateway connection that a handshake with this query begins, if it is one.
    pub fn of(query: &str) -> Option<Self> {
        let value = |wanted: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|pair| pair.0 == wanted)
                .map(|pair| pair.1)
        };
        let (version, encoding) = (value("v")?, value("encoding")?);
        if version.parse::<u8>().is_err() || !matches!(encoding, "json" | "etf") {
            return None;
        }
        let compress = value("compress");
        Some(Self {
            stream: match compress {
                Some("zlib-stream") => Some(Inflate::zlib()),
                Some("zstd-stream") => Inflate::zstd(),
                _ => None,
            },
            unsupported: encoding == "etf",
            resumed: false,
            shard: None,
        })
    }

    /// One that is met in the middle of its stream, of which nothing can be read: if it is zlib's, before [`Gateway::resume`].
    pub fn in_stream(mut stream: Inflate) -> Self {
        stream.lose();
        Self { stream: Some(stream), ..Self::plain() }
    }

    /// One whose messages are JSON.
    pub fn plain() -> Self {
        Self { stream: None, unsupported: false, resumed: false, shard: None }
    }

    /// Goes on with a stream of zlib: what it has said last, and the messages since then, which start no work any more.
    ///
    /// # Errors
    ///
    /// Where those do not follow from that.
    pub fn resume<'a>(
        &mut self,
        history: [&[u8]; 2],
        messages: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Unreadable> {
        let mut stream = Inflate::behind(history)?;
        let mut content = Vec::new();
        for message in messages {
            content.clear();
            stream.begin();
            stream.run(message, &mut content, super::websocket::CONTENT_MAX)?;
            if content.first() == Some(&ERLANG) {
                self.unsupported = true;
            } else {
                serde_json::from_slice::<Payload<'_>>(&content).map_err(|_| Unreadable)?;
            }
        }
        self.stream = Some(stream);
        self.resumed = true;
        Ok(())
    }

    /// Whether a message shows that the stream did not go on so after all.
    pub fn is_garbled(&self, content: &[u8]) -> bool {
        self.resumed && serde_json::from_slice::<Payload<'_>>(content).is_err()
    }

    /// Whether its messages are in an encoding that is not read.
    pub fn is_unsupported(&self) -> bool {
        self.unsupported
    }

    /// Whether all messages are one compressed stream.
    pub fn is_compressed(&self) -> bool {
        self.stream.is_some()
    }

    /// Takes a piece of that stream; see [`Inflate::run`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn inflate(&mut self, bytes: &[u8], into: &mut Vec<u8>, most: usize) -> Result<bool, Unreadable> {
        match &mut self.stream {
            Some(stream) => stream.run(bytes, into, most),
            None => Err(Unreadable),
        }
    }

    /// A message begins.
    pub fn begin(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.begin();
        }
    }

    /// Whether nothing of its stream can be read any more.
    pub fn is_lost(&self) -> bool {
        self.stream.as_ref().is_some_and(Inflate::is_lost)
    }

    /// Bytes of the stream are missing. Returns whether it can be gone on with by [`Gateway::resume`].
    pub fn lose(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        stream.lose();
        stream.is_deflate() && !self.unsupported
    }

    /// Reads a payload; `None` for what starts no work.
    pub fn read(&mut self, content: &[u8]) -> Option<Dispatch> {
        let mut inflated = Vec::new();
        let content = if self.stream.is_none() && content.first() == Some(&ZLIB) {
            // Payload compression (`compress` in IDENTIFY): a stream of its own.
            Inflate::zlib().run(content, &mut inflated, super::websocket::CONTENT_MAX).ok()?;
            &inflated[..]
        } else {
            content
        };
        let payload: Payload<'_> = serde_json::from_slice(content).ok()?;
        let event = payload.t.filter(|_| payload.op == DISPATCH)?;
        let mut dispatch = Dispatch { event: event.into_owned(), shard: self.shard, ..Dispatch::default() };
        if dispatch.event == "INTERACTION_CREATE" {
            interaction::read(content, &mut dispatch)?;
            return Some(dispatch);
        }
        // What an event has under these names may be something else; then it has no ids.
        let ids = serde_json::from_slice::<Body<Ids>>(content).map(|body| body.d).unwrap_or_default();
        if let Some([shard, _]) = ids.shard.filter(|_| dispatch.event == "READY") {
            self.shard = Some(shard);
            dispatch.shard = self.shard;
        }
        dispatch.guild = ids.guild_id;
        dispatch.channel = ids.channel_id;
        dispatch.user = ids.author.map(|author| author.id).or(ids.user_id);
        Some(dispatch)
    }
}
