//! From an instruction to its line: the three formats of `CPython`'s line tables.

use serde::{Deserialize, Serialize};

/// How a line table is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// `co_lnotab`: pairs of bytes to add to the offset and to the line (`Objects/lnotab_notes.txt`, 3.8 and 3.9).
    #[default]
    Notab,
    /// `co_linetable`: the same pairs, but the line of a pair is that of the bytes it covers (PEP 626, 3.10).
    Pairs,
    /// Locations, with columns (Objects/locations.md, since 3.11).
    Locations,
}

/// Line of the instruction that begins `unit` units of two bytes behind the first; `None` where it has none, or the
/// table is broken.
pub(super) fn line(format: Format, table: &[u8], first: u32, unit: u16) -> Option<u32> {
    let wanted = u32::from(unit);
    let line = match format {
        Format::Notab => notab(table, i64::from(first), wanted * 2),
        Format::Pairs => pairs(table, i64::from(first), wanted * 2)?,
        Format::Locations => locations(table, i64::from(first), wanted)?,
    };
    u32::try_from(line).ok().filter(|line| *line > 0)
}

fn notab(table: &[u8], first: i64, wanted: u32) -> i64 {
    let (mut at, mut line) = (0, first);
    for pair in table.chunks_exact(2) {
        at += u32::from(pair[0]);
        if at > wanted {
            break;
        }
        line += i64::from(pair[1].cast_signed());
    }
    line
}

fn pairs(table: &[u8], first: i64, wanted: u32) -> Option<i64> {
    /// Of bytes that have no line.
    const NONE: i8 = -128;
    let (mut end, mut line) = (0, first);
    for pair in table.chunks_exact(2) {
        end += u32::from(pair[0]);
        let more = pair[1].cast_signed();
        if more != NONE {
            line += i64::from(more);
        }
        if end > wanted {
            return (more != NONE).then_some(line);
        }
    }
    None
}

fn locations(table: &[u8], first: i64, wanted: u32) -> Option<i64> {
    let (mut end, mut line) = (0, first);
    let mut at = 0;
    while let Some(&head) = table.get(at) {
        // Only the first byte of an entry has its highest bit set.
        if head & 0x80 == 0 {
            return None;
        }
        let kind = head >> 3 & 15;
        line += match kind {
            13 | 14 => signed(table.get(at + 1..)?),
            11 | 12 => i64::from(kind) - 10,
            _ => 0,
        };
        end += u32::from(head & 7) + 1;
        if end > wanted {
            return (kind != 15).then_some(line);
        }
        at += 1 + table[at + 1..].iter().take_while(|byte| **byte & 0x80 == 0).count();
    }
    None
}

/// A number of chunks of six bits, the lowest first; its lowest bit is the sign.
fn signed(bytes: &[u8]) -> i64 {
    let mut value: u64 = 0;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 63) << (6 * i);
        if byte & 64 == 0 {
            break;
        }
    }
    let size = (value >> 1).cast_signed();
    if value & 1 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_3_8() {
        // def f(a, b):          # line 10
        //     x = a + b         # 0
        //     return g(x)       # 8
        let table = [0, 1, 8, 1];
        let lines: Vec<_> = (0..8).map(|unit| line(Format::Notab, &table, 10, unit)).collect();
        assert_eq!(lines, [11, 11, 11, 11, 12, 12, 12, 12].map(Some));
        // A line before the one above it.
        assert_eq!(line(Format::Notab, &[0, 5, 4, 0xfe], 10, 2), Some(13));
    }

    #[test]
    fn lines_of_3_10() {
        let table = [8, 1, 4, 0x80, 8, 1];
        assert_eq!(line(Format::Pairs, &table, 10, 3), Some(11));
        assert_eq!(line(Format::Pairs, &table, 10, 4), None);
        assert_eq!(line(Format::Pairs, &table, 10, 6), Some(12));
        assert_eq!(line(Format::Pairs, &table, 10, 10), None);
    }

    #[test]
    fn lines_since_3_11() {
        // One unit at the first line; two, one line on; one without columns, 40 lines back; one without a line.
        let table = [0x80, 0, 0xd9, 4, 9, 0xe8, 0x51, 1, 0xf8];
        let lines: Vec<_> = (0..6).map(|unit| line(Format::Locations, &table, 100, unit)).collect();
        assert_eq!(lines, [Some(100), Some(101), Some(101), Some(61), None, None]);
    }

    proptest! {
        #[test]
        fn no_table_panics(table: Vec<u8>, first: u32, unit: u16) {
            for format in [Format::Notab, Format::Pairs, Format::Locations] {
                line(format, &table, first, unit);
            }
        }
    }
}
