//! Decompression of a stream that comes in pieces, with a bound on what is kept of it.

use flate2::{Decompress, FlushDecompress, Status};

/// Bytes that are made at once.
const STEP: usize = 16 * 1024;
/// Bytes of output for a byte of input beyond which nobody means well: deflate cannot do more (RFC 1951: 258 bytes for
/// at least two bits).
const RATIO_MAX: u64 = 1040;

/// A compressed stream.
#[derive(Debug)]
pub struct Inflate {
    decompress: Decompress,
    zlib: bool,
    lost: bool,
}

impl Inflate {
    /// Bare deflate (RFC 1951).
    pub fn raw() -> Self {
        Self { decompress: Decompress::new(false), zlib: false, lost: false }
    }

    /// With zlib's header (RFC 1950).
    pub fn zlib() -> Self {
        Self { decompress: Decompress::new(true), zlib: true, lost: false }
    }

    /// Part of the stream was not seen: nothing of it can be read any more, until it begins anew.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Appends what the next bytes of the stream mean, and says whether all of it had room below `most`; what has none is
    /// made and dropped, for what follows needs it.
    ///
    /// # Errors
    ///
    /// Where that is no such stream, or part of it was not seen.
    pub fn run(&mut self, mut bytes: &[u8], into: &mut Vec<u8>, most: usize) -> Result<bool, ()> {
        if self.lost {
            return Err(());
        }
        let mut fits = true;
        let mut made = 0;
        let bound = bytes.len() as u64 * RATIO_MAX + STEP as u64;
        let mut buffer = [0; STEP];
        loop {
            let (taken, given) = (self.decompress.total_in(), self.decompress.total_out());
            let status = self.decompress.decompress(bytes, &mut buffer, FlushDecompress::Sync);
            let taken = (self.decompress.total_in() - taken) as usize;
            let given = (self.decompress.total_out() - given) as usize;
            made += given as u64;
            let Ok(status) = status else {
                self.lost = true;
                return Err(());
            };
            if made > bound {
                self.lost = true;
                return Err(());
            }
            bytes = bytes.get(taken..).unwrap_or_default();
            if fits && into.len() + given <= most {
                into.extend_from_slice(&buffer[..given]);
            } else {
                fits &= given == 0;
            }
            if status == Status::StreamEnd {
                // Another may follow, as after a final block of permessage-deflate.
                self.decompress.reset(self.zlib);
            }
            if bytes.is_empty() && given < STEP || taken == 0 && given == 0 {
                return Ok(fits);
            }
        }
    }
}
