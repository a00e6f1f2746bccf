//! TLS as a reader without keys sees it: where records begin, and what the greetings say in the clear.
//!
//! RFC 8446 (1.3), sections 4.1, 4.2 and 5.1; RFC 5246 (1.2), section 6.2; RFC 6066, section 3 (server names).

mod hello;
#[cfg(test)]
mod tests;

use hello::greeting;

pub use hello::Greeting;

/// Bytes of a record's head.
const HEAD: usize = 5;
/// The largest record: 2^14 bytes of plaintext and at most 2,048 of overhead (RFC 5246, section 6.2.3).
const RECORD_MAX: u16 = (1 << 14) + 2048;
/// Most plaintext in one record.
const PLAINTEXT_MAX: u64 = 1 << 14;
/// What encryption adds to a record: at least a tag of 16 bytes (AES-GCM in 1.3 one more for the type, in 1.2 eight for
/// the nonce); with CBC a vector, a MAC of up to 48 bytes and padding.
const OVERHEAD: std::ops::RangeInclusive<u64> = 16..=80;
/// Bytes of a greeting that are kept while it is incomplete.
const GREETING_MAX: usize = 16 * 1024;

/// Content types.
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// What the first bytes of one half of a connection say: `None` where they are too few.
pub fn begins(bytes: &[u8]) -> Option<bool> {
    let Some(head) = bytes.first_chunk::<HEAD>() else {
        let known = bytes.first().is_none_or(|kind| (20..=23).contains(kind))
            && bytes.get(1).is_none_or(|major| *major == 3)
            && bytes.get(2).is_none_or(|minor| *minor <= 4);
        return if known { None } else { Some(false) };
    };
    Some(record(*head).is_some())
}

/// Content type and length of a record.
fn record(head: [u8; HEAD]) -> Option<(u8, u16)> {
    let length = u16::from_be_bytes([head[3], head[4]]);
    let valid =
        (20..=23).contains(&head[0]) && head[1] == 3 && head[2] <= 4 && length > 0 && length <= RECORD_MAX;
    valid.then_some((head[0], length))
}

/// Whether a record of application data this long can hold the beginning of `plaintext` bytes that were written or read
/// at once.
pub fn fits(record: u16, plaintext: u64) -> bool {
    let record = u64::from(record);
    OVERHEAD.contains(&record.saturating_sub(plaintext.min(PLAINTEXT_MAX)))
}

/// The records of one half of a connection.
#[derive(Clone, Debug, Default)]
pub struct Records {
    place: Place,
    /// The handshake messages so far, while the greeting is not complete.
    greeting: Vec<u8>,
    /// Nothing more will come of them.
    greeted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Unknown, until bytes begin like a record.
    #[default]
    Lost,
    /// Inside the head: so many bytes of it are there.
    Head([u8; HEAD], u8),
    /// So many bytes of a record of this type are missing.
    Body(u8, u16),
}

impl Records {
    /// Takes bytes that were moved at once; `begun` is told the length of each record of application data that begins
    /// in them.
    pub fn data(&mut self, bytes: &[u8], begun: &mut Vec<u16>) {
        let mut rest = bytes;
        if self.place == Place::Lost {
            if begins(rest) == Some(false) {
                return;
            }
            self.place = Place::Head([0; HEAD], 0);
        }
        while let Some(first) = rest.first().copied() {
            match &mut self.place {
                Place::Lost => return,
                Place::Head(head, have) => {
                    if let Some(at) = head.get_mut(usize::from(*have)) {
                        *at = first;
                    }
                    *have += 1;
                    rest = &rest[1..];
                    if usize::from(*have) < HEAD {
                        continue;
                    }
                    let Some((content, length)) = record(*head) else { return self.lose() };
                    if content == APPLICATION_DATA {
                        begun.push(length);
                        // What follows is encrypted; the greeting may have come in the same piece.
                        self.greeted = true;
                    }
                    self.place = Place::Body(content, length);
                }
                Place::Body(content, missing) => {
                    let taken = rest.len().min(usize::from(*missing));
                    let (body, behind) = rest.split_at(taken);
                    if *content == HANDSHAKE && !self.greeted {
                        self.greeting.extend_from_slice(body);
                        self.greeted = self.greeting.len() > GREETING_MAX;
                    }
                    *missing -= taken as u16;
                    if *missing == 0 {
                        self.place = Place::Head([0; HEAD], 0);
                    }
                    rest = behind;
                }
            }
        }
    }

    /// So many bytes follow that were not captured.
    pub fn gap(&mut self, length: u64) {
        match &mut self.place {
            Place::Body(_, missing) if length <= u64::from(*missing) => {
                *missing -= length as u16;
                if *missing == 0 {
                    self.place = Place::Head([0; HEAD], 0);
                }
                self.greeted = true;
            }
            _ => self.lose(),
        }
    }

    /// The greeting, once, when it has come.
    pub fn greeting(&mut self) -> Option<Greeting> {
        if self.greeting.is_empty() {
            return None;
        }
        let found = greeting(&self.greeting);
        self.greeted |= found.is_some();
        if self.greeted {
            self.greeting = Vec::new();
        }
        found
    }

    fn lose(&mut self) {
        self.place = Place::Lost;
        self.greeted = true;
        self.greeting = Vec::new();
    }
}
