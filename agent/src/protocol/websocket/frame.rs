//! Frames of one half of a connection (RFC 6455, section 5.2): headers, masks, payload in any pieces.

/// Opcodes.
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
/// From here on control frames, which stand between the fragments of a message.
const CONTROL: u8 = 8;
const CLOSE: u8 = 8;
const PONG: u8 = 10;
/// Most bytes of a control frame (section 5.5).
const CONTROL_MAX: u64 = 125;
/// Longest header.
const HEADER_MAX: usize = 14;

/// What a piece of bytes has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// A message begins; `compressed` by an extension that uses the first reserved bit.
    Begin { text: bool, compressed: bool },
    /// Payload of the message, still masked where there is a mask.
    Payload(&'a [u8], Mask),
    /// The message is complete.
    End,
    /// The other end has closed.
    Close,
    /// These are no frames.
    Malformed(u64),
}

/// The mask of a piece of payload: the key, and the place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mask {
    key: [u8; 4],
    at: u8,
}

impl Mask {
    /// Appends the bytes without their mask.
    pub(super) fn remove(self, bytes: &[u8], into: &mut Vec<u8>) {
        if self.key == [0; 4] {
            into.extend_from_slice(bytes);
        } else {
            let key = self.key.iter().copied().cycle().skip(usize::from(self.at));
            into.extend(bytes.iter().zip(key).map(|(byte, key)| byte ^ key));
        }
    }
}

/// The frames of one half.
#[derive(Clone, Debug)]
pub(super) struct Frames {
    /// Whether this half is masked: the client's is, the server's is not (section 5.1).
    masked: bool,
    header: [u8; HEADER_MAX],
    have: usize,
    /// Bytes of payload that are missing.
    left: u64,
    inside: Option<Inside>,
    mask: Mask,
    /// A message is under way: fragments may follow.
    open: bool,
    lost: bool,
}

/// What kind of frame it is whose payload is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Data { last: bool },
    Control,
    Close,
}

impl Frames {
    pub(super) fn new(masked: bool) -> Self {
        Self {
            masked,
            header: [0; HEADER_MAX],
            have: 0,
            left: 0,
            inside: None,
            mask: Mask::default(),
            open: false,
            lost: false,
        }
    }

    /// After bytes were lost: the next piece is taken to begin with a frame, if it looks like one.
    pub(super) fn lose(&mut self) {
        *self = Self { lost: true, ..Self::new(self.masked) };
    }

    /// Bytes that were not captured: true where they lie in the payload of one frame.
    pub(super) fn skip(&mut self, length: u64) -> bool {
        if self.inside.is_none() || length > self.left {
            self.lose();
            return false;
        }
        self.left -= length;
        self.mask.at = ((u64::from(self.mask.at) + length) % 4) as u8;
        true
    }

    /// Takes the next step; `None` where more bytes are needed.
    pub(super) fn advance<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Step<'a>> {
        loop {
            if let Some(inside) = self.inside {
                if self.left > 0 {
                    let taken = (rest.len() as u64).min(self.left) as usize;
                    if taken == 0 {
                        return None;
                    }
                    let (payload, behind) = rest.split_at(taken);
                    let mask = self.mask;
                    self.left -= taken as u64;
                    self.mask.at = ((usize::from(self.mask.at) + taken) % 4) as u8;
                    *rest = behind;
                    match inside {
                        Inside::Data { .. } => return Some(Step::Payload(payload, mask)),
                        Inside::Control | Inside::Close => continue,
                    }
                }
                self.inside = None;
                match inside {
                    Inside::Data { last: true } => {
                        self.open = false;
                        return Some(Step::End);
                    }
                    Inside::Close => return Some(Step::Close),
                    Inside::Data { last: false } | Inside::Control => {}
                }
            }
            let (first, behind) = rest.split_first()?;
            *rest = behind;
            if let Some(at) = self.header.get_mut(self.have) {
                *at = *first;
            }
            self.have += 1;
            if self.have < 2 || self.have < self.header_length() {
                continue;
            }
            if let Some(step) = self.begin() {
                return Some(step);
            }
        }
    }

    /// Length of the header, from its first two bytes.
    fn header_length(&self) -> usize {
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if self.header[1] & 0x80 != 0 { 4 } else { 0 }
    }

    /// A header is complete.
    fn begin<'a>(&mut self) -> Option<Step<'a>> {
        let have = std::mem::take(&mut self.have);
        let [first, second, ..] = self.header;
        let (last, compressed, opcode) = (first & 0x80 != 0, first & 0x40 != 0, first & 0x0f);
        let masked = second & 0x80 != 0;
        let behind = have - if masked { 4 } else { 0 };
        let number = self.header[2..behind].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let length = if behind > 2 { number } else { u64::from(second & 0x7f) };
        let known = matches!(opcode, CONTINUATION..=BINARY | CLOSE..=PONG);
        let control = opcode >= CONTROL;
        let fits = !control || last && !compressed && length <= CONTROL_MAX;
        let in_order = match opcode {
            // After lost bytes the rest of a message may come first.
            CONTINUATION => (self.open || self.lost) && !compressed,
            TEXT | BINARY => !self.open,
            _ => true,
        };
        if first & 0x30 != 0 || !known || !fits || !in_order || masked != self.masked || length >> 63 != 0 {
            self.lose();
            return Some(Step::Malformed(have as u64));
        }
        self.left = length;
        self.mask = Mask::default();
        if masked {
            self.mask.key.copy_from_slice(&self.header[behind..have]);
        }
        self.inside = Some(match opcode {
            CLOSE => Inside::Close,
            _ if control => Inside::Control,
            _ => Inside::Data { last },
        });
        if matches!(opcode, TEXT | BINARY) {
            (self.open, self.lost) = (true, false);
            return Some(Step::Begin { text: opcode == TEXT, compressed });
        }
        None
    }
}
