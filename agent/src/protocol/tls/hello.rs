//! The greetings of a handshake (RFC 8446, sections 4.1.2, 4.1.3 and 4.2; RFC 6066, section 3).

/// Handshake types.
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// Bytes of a greeting's random value.
const RANDOM: usize = 32;
/// Extensions.
const SERVER_NAME: u16 = 0;
const SUPPORTED_VERSIONS: u16 = 43;
/// `NameType.host_name`.
const HOST_NAME: u8 = 0;
/// Longest DNS name.
const NAME_MAX: usize = 255;

/// What the first message of a handshake says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The client's: the name for which it asks (`server_name`).
    Client(Option<String>),
    /// The server's: the version that it has chosen, as in `tls.protocol.version`.
    Server(Option<&'static str>),
}

/// Reads the first handshake message; `None` while it is incomplete, or is no greeting.
pub(super) fn greeting(handshake: &[u8]) -> Option<Greeting> {
    client_hello(handshake).or_else(|| server_hello(handshake))
}

fn client_hello(handshake: &[u8]) -> Option<Greeting> {
    let mut body = Reader(handshake).message(CLIENT_HELLO)?;
    body.take(2 + RANDOM)?;
    body.short_block()?;
    body.block()?;
    body.short_block()?;
    Some(Greeting::Client(body.extension(SERVER_NAME).and_then(name)))
}

/// `ServerNameList`: the host name in it.
fn name(extension: Reader<'_>) -> Option<String> {
    let mut names = Reader({ extension }.block()?);
    loop {
        let kind = names.take(1)?;
        let name = names.block()?;
        if kind == [HOST_NAME] {
            let plausible = name.len() <= NAME_MAX
                && !name.is_empty()
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte));
            return if plausible { String::from_utf8(name.to_vec()).ok() } else { None };
        }
    }
}

fn server_hello(handshake: &[u8]) -> Option<Greeting> {
    let mut body = Reader(handshake).message(SERVER_HELLO)?;
    let legacy = body.number()?;
    body.take(RANDOM)?;
    body.short_block()?;
    // Cipher suite and compression method.
    body.take(3)?;
    let chosen = body.extension(SUPPORTED_VERSIONS).and_then(|mut extension| extension.number());
    let version = match chosen.unwrap_or(legacy) {
        0x0300 => Some("3.0"),
        0x0301 => Some("1.0"),
        0x0302 => Some("1.1"),
        0x0303 => Some("1.2"),
        0x0304 => Some("1.3"),
        _ => None,
    };
    Some(Greeting::Server(version))
}

/// What is left to read.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A block behind two bytes of length.
    fn block(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }

    /// A block behind one byte of length.
    fn short_block(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    /// The body of the first handshake message, if it is complete and of this type.
    fn message(mut self, wanted: u8) -> Option<Self> {
        let head = self.take(4)?;
        let length = u32::from_be_bytes([0, head[1], head[2], head[3]]);
        let body = self.take(length as usize)?;
        (head[0] == wanted).then_some(Self(body))
    }

    /// The body of an extension in the block of extensions that follows.
    fn extension(mut self, wanted: u16) -> Option<Self> {
        let mut extensions = Reader(self.block()?);
        loop {
            let kind = extensions.number()?;
            let body = extensions.block()?;
            if kind == wanted {
                return Some(Reader(body));
            }
        }
    }
}
