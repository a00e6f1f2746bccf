//! Recorded connections as text, for golden tests.

use super::Side;

/// One read or write of a recorded connection.
pub(super) type Chunk = (Side, Vec<u8>);

/// Reads a recording: a line per read, `>` from the client or `<` from the server, then the bytes; those that are not
/// printable ASCII are written `\xNN`.
pub(super) fn recording(text: &str) -> Vec<Chunk> {
    text.lines()
        .map(|line| {
            let side = if line.starts_with('>') { Side::Request } else { Side::Response };
            (side, unescape(&line[1..]))
        })
        .collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            bytes.push(byte);
        } else if rest[0] == b'\\' {
            bytes.push(b'\\');
            rest = &rest[1..];
        } else {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&rest[1..3]).unwrap(), 16).unwrap());
            rest = &rest[3..];
        }
    }
    bytes
}
