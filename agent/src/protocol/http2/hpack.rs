//! HPACK (RFC 7541), as somebody needs it who listens and may have come late.
//!
//! An index counts from the newest entry of the table, so what was inserted since the listener came is known for certain,
//! and all else is [`Name::Unknown`]. Of fields that nobody asks for neither name nor value is kept.

use std::collections::VecDeque;

use httlib_huffman::DecoderSpeed;

/// Size that a table has until an update says otherwise, bytes: RFC 9113 §6.5.2.
const SIZE: usize = 4096;
/// Largest size that is followed; of larger tables the oldest entries are unknown.
const SIZE_MAX: usize = 64 * 1024;
/// What each entry counts beside its texts: RFC 7541 §4.1.
const OVERHEAD: usize = 32;
/// Longest value that is kept, bytes.
const VALUE_MAX: usize = 4096;

/// A field that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
    ContentType,
    Forwarded,
    GrpcStatus,
    GrpcTimeout,
    Traceparent,
    Tracestate,
    UserAgent,
    XForwardedProto,
    /// One that nobody asks for.
    Other,
    /// It refers to an entry of the table that was not seen.
    Unknown,
}

impl Name {
    fn of(text: &[u8]) -> Self {
        match text {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            b"content-type" => Self::ContentType,
            b"forwarded" => Self::Forwarded,
            b"grpc-status" => Self::GrpcStatus,
            b"grpc-timeout" => Self::GrpcTimeout,
            b"traceparent" => Self::Traceparent,
            b"tracestate" => Self::Tracestate,
            b"user-agent" => Self::UserAgent,
            b"x-forwarded-proto" => Self::XForwardedProto,
            _ => Self::Other,
        }
    }
}

/// The static table, RFC 7541 appendix A: name, length of the name, value.
const STATIC: [(Name, usize, &[u8]); 61] = {
    const fn entry(name: Name, length: usize) -> (Name, usize, &'static [u8]) {
        (name, length, b"")
    }
    const fn other(length: usize) -> (Name, usize, &'static [u8]) {
        (Name::Other, length, b"")
    }
    [
        entry(Name::Authority, 10),
        (Name::Method, 7, b"GET"),
        (Name::Method, 7, b"POST"),
        (Name::Path, 5, b"/"),
        (Name::Path, 5, b"/index.html"),
        (Name::Scheme, 7, b"http"),
        (Name::Scheme, 7, b"https"),
        (Name::Status, 7, b"200"),
        (Name::Status, 7, b"204"),
        (Name::Status, 7, b"206"),
        (Name::Status, 7, b"304"),
        (Name::Status, 7, b"400"),
        (Name::Status, 7, b"404"),
        (Name::Status, 7, b"500"),
        other(14),                           // accept-charset
        (Name::Other, 15, b"gzip, deflate"), // accept-encoding
        other(15),                           // accept-language
        other(13),                           // accept-ranges
        other(6),                            // accept
        other(27),                           // access-control-allow-origin
        other(3),                            // age
        other(5),                            // allow
        other(13),                           // authorization
        other(13),                           // cache-control
        other(19),                           // content-disposition
        other(16),                           // content-encoding
        other(16),                           // content-language
        other(14),                           // content-length
        other(16),                           // content-location
        other(13),                           // content-range
        entry(Name::ContentType, 12),
        other(6),  // cookie
        other(4),  // date
        other(4),  // etag
        other(6),  // expect
        other(7),  // expires
        other(4),  // from
        other(4),  // host
        other(8),  // if-match
        other(17), // if-modified-since
        other(13), // if-none-match
        other(8),  // if-range
        other(19), // if-unmodified-since
        other(13), // last-modified
        other(4),  // link
        other(8),  // location
        other(12), // max-forwards
        other(18), // proxy-authenticate
        other(19), // proxy-authorization
        other(5),  // range
        other(7),  // referer
        other(7),  // refresh
        other(11), // retry-after
        other(6),  // server
        other(10), // set-cookie
        other(25), // strict-transport-security
        other(17), // transfer-encoding
        entry(Name::UserAgent, 10),
        other(4),  // vary
        other(3),  // via
        other(16), // www-authenticate
    ]
};

/// A block that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The table of one direction.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest first.
    entries: VecDeque<Entry>,
    /// Size of the entries as the RFC counts it.
    size: usize,
    /// Largest size.
    limit: usize,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    name: Name,
    name_length: usize,
    value: Box<[u8]>,
    size: usize,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: SIZE, scratch: Vec::new() }
    }

    /// A block was lost: what it has inserted is not known, nor what stands where.
    pub(super) fn forget(&mut self) {
        self.entries.clear();
        self.size = 0;
    }

    /// Reads a block; `field` is told each field. A value is empty where only the name is known.
    pub(super) fn decode(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(Name, &[u8]),
    ) -> Result<(), Malformed> {
        let mut rest = block;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                match self.entry(index)? {
                    Some((name, value)) => field(name, value),
                    None => field(Name::Unknown, b""),
                }
            } else if first & 0xe0 == 0x20 {
                let limit = integer(&mut rest, 5)?.min(SIZE_MAX);
                self.limit = limit;
                self.evict(limit);
            } else {
                let inserts = first & 0x40 != 0;
                self.literal(&mut rest, inserts, &mut field)?;
            }
        }
        Ok(())
    }

    fn literal(
        &mut self,
        rest: &mut &[u8],
        inserts: bool,
        field: &mut impl FnMut(Name, &[u8]),
    ) -> Result<(), Malformed> {
        let index = integer(rest, if inserts { 6 } else { 4 })?;
        let mut text = std::mem::take(&mut self.scratch);
        let result = self.name(index, rest, &mut text).and_then(|(name, name_length)| {
            string(rest, &mut text)?;
            field(name, &text);
            if inserts {
                self.insert(name, name_length, &text);
            }
            Ok(())
        });
        self.scratch = text;
        result
    }

    /// The name of a literal and its length.
    fn name(&self, index: usize, rest: &mut &[u8], text: &mut Vec<u8>) -> Result<(Name, usize), Malformed> {
        let Some(place) = index.checked_sub(1) else {
            string(rest, text)?;
            return Ok((Name::of(text), text.len()));
        };
        if let Some((name, length, _)) = STATIC.get(place) {
            return Ok((*name, *length));
        }
        let known = self.entries.get(place - STATIC.len());
        Ok(known.map_or((Name::Unknown, 0), |entry| (entry.name, entry.name_length)))
    }

    fn entry(&self, index: usize) -> Result<Option<(Name, &[u8])>, Malformed> {
        let place = index.checked_sub(1).ok_or(Malformed)?;
        if let Some((name, _, value)) = STATIC.get(place) {
            return Ok(Some((*name, value)));
        }
        Ok(self.entries.get(place - STATIC.len()).map(|entry| (entry.name, &*entry.value)))
    }

    fn insert(&mut self, name: Name, name_length: usize, value: &[u8]) {
        let size = name_length + value.len() + OVERHEAD;
        if size > self.limit {
            return self.forget();
        }
        self.evict(self.limit - size);
        let keeps = !matches!(name, Name::Other | Name::Unknown);
        let kept = if keeps { value.get(..VALUE_MAX).unwrap_or(value) } else { &[] };
        self.entries.push_front(Entry { name, name_length, value: kept.into(), size });
        self.size += size;
    }

    fn evict(&mut self, limit: usize) {
        while self.size > limit {
            let Some(oldest) = self.entries.pop_back() else { return self.size = 0 };
            self.size -= oldest.size;
        }
    }
}

/// An integer with a prefix of so many bits, RFC 7541 §5.1.
fn integer(rest: &mut &[u8], bits: u8) -> Result<usize, Malformed> {
    let (&first, mut behind) = rest.split_first().ok_or(Malformed)?;
    let most = (1usize << bits) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, next) = behind.split_first().ok_or(Malformed)?;
            behind = next;
            if shift > 21 {
                return Err(Malformed);
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = behind;
    Ok(value)
}

/// A text, RFC 7541 §5.2.
fn string(rest: &mut &[u8], text: &mut Vec<u8>) -> Result<(), Malformed> {
    let huffman = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (said, behind) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = behind;
    text.clear();
    if huffman {
        return httlib_huffman::decode(said, text, DecoderSpeed::FourBits).map_err(|_| Malformed);
    }
    text.extend_from_slice(said);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn decode(decoder: &mut Decoder, hex: &str) -> Result<Vec<(Name, String)>, Malformed> {
        let mut fields = Vec::new();
        decoder.decode(&bytes(hex), |name, value| {
            fields.push((name, String::from_utf8_lossy(value).into_owned()));
        })?;
        Ok(fields)
    }

    fn pairs(fields: &[(Name, &str)]) -> Vec<(Name, String)> {
        fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    const FIRST: [(Name, &str); 4] = [
        (Name::Method, "GET"),
        (Name::Scheme, "http"),
        (Name::Path, "/"),
        (Name::Authority, "www.example.com"),
    ];

    /// RFC 7541 §C.3 and §C.4: three requests on one connection, without and with Huffman's code.
    #[test]
    fn requests_of_the_rfc() {
        for requests in [
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
        ] {
            let mut decoder = Decoder::new();
            assert_eq!(decode(&mut decoder, requests[0]), Ok(pairs(&FIRST)));
            let second = decode(&mut decoder, requests[1]).unwrap();
            assert_eq!(second[..4], pairs(&FIRST));
            assert_eq!(second[4], (Name::Other, "no-cache".to_owned()));
            let third = decode(&mut decoder, requests[2]).unwrap();
            assert_eq!(
                third[1..4],
                pairs(&[
                    (Name::Scheme, "https"),
                    (Name::Path, "/index.html"),
                    (Name::Authority, "www.example.com"),
                ])
            );
            assert_eq!(decoder.size, 164, "as the RFC says");
        }
    }

    /// RFC 7541 §C.6: a table of 256 bytes, from which entries are evicted.
    #[test]
    fn responses_of_the_rfc() {
        let mut decoder = Decoder::new();
        decoder.limit = 256;
        decode(
            &mut decoder,
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7
             8f0b 97c8 e9ae 82ae 43d3",
        )
        .unwrap();
        assert_eq!(decoder.size, 222);
        let second = decode(&mut decoder, "4883 640e ffc1 c0bf").unwrap();
        assert_eq!(second[0], (Name::Status, "307".to_owned()));
        assert_eq!(decoder.size, 222);
    }

    #[test]
    fn who_comes_late_knows_what_was_inserted_since() {
        let mut decoder = Decoder::new();
        let fields = decode(&mut decoder, "82 be c0 4104 61626364").unwrap();
        let unknown = (Name::Unknown, "");
        let authority = (Name::Authority, "abcd");
        assert_eq!(fields, pairs(&[(Name::Method, "GET"), unknown, unknown, authority]));
        assert_eq!(decode(&mut decoder, "be bf"), Ok(pairs(&[authority, unknown])));
        decoder.forget();
        assert_eq!(decode(&mut decoder, "be"), Ok(pairs(&[unknown])));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for hex in ["80", "41", "41 0f 77", "7f ff ff ff ff ff", "41 81 00 00", "40 01"] {
            let result = decode(&mut Decoder::new(), hex);
            assert!(result.is_err() || hex == "41 81 00 00", "{hex}: {result:?}");
        }
    }

    #[test]
    fn secrets_are_not_kept() {
        let mut decoder = Decoder::new();
        decode(&mut decoder, "57 06 736563726574 60 06 736563726574").unwrap();
        assert!(decoder.entries.iter().all(|entry| entry.value.is_empty()), "{decoder:?}");
        assert_eq!(decoder.size, 13 + 6 + 32 + 6 + 6 + 32);
    }
}
