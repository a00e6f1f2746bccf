//! Decompression of a stream that comes in pieces, with a bound on what is kept of it.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

/// Bytes that are made at once.
const STEP: usize = 16 * 1024;
/// Bytes that one message may mean: beyond it nobody means well, and the stream is given up.
const MADE_MAX: u64 = 64 * 1024 * 1024;
/// Largest window of a zstd stream, as a power of two: 8 MiB, which every decoder should support (RFC 8878, section
/// 3.1.1.1.2).
const WINDOW_LOG_MAX: u32 = 23;

/// That is no such stream, or part of it was not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// A compressed stream.
pub struct Inflate {
    format: Format,
    lost: bool,
    /// Bytes made of the message under way.
    made: u64,
}

enum Format {
    /// Deflate, with or without zlib's header.
    Deflate {
        decompress: Decompress,
        zlib: bool,
    },
    Zstd(Decoder<'static>),
}

/// How far one step has come.
struct Step {
    taken: usize,
    given: usize,
}

impl std::fmt::Debug for Inflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflate").field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Format {
    fn step(&mut self, bytes: &[u8], buffer: &mut [u8]) -> Result<Step, Unreadable> {
        match self {
            Self::Deflate { decompress, zlib } => {
                let (taken, given) = (decompress.total_in(), decompress.total_out());
                let status =
                    decompress.decompress(bytes, buffer, FlushDecompress::Sync).map_err(|_| Unreadable)?;
                let taken = (decompress.total_in() - taken) as usize;
                let given = (decompress.total_out() - given) as usize;
                if status == Status::StreamEnd {
                    // Another may follow, as after a final block of permessage-deflate.
                    decompress.reset(*zlib);
                }
                Ok(Step { taken, given })
            }
            Self::Zstd(decoder) => {
                let mut input = InBuffer::around(bytes);
                let mut output = OutBuffer::around(buffer);
                decoder.run(&mut input, &mut output).map_err(|_| Unreadable)?;
                Ok(Step { taken: input.pos(), given: output.pos() })
            }
        }
    }
}

impl Inflate {
    fn of(format: Format) -> Self {
        Self { format, lost: false, made: 0 }
    }

    /// Bare deflate (RFC 1951).
    pub fn raw() -> Self {
        Self::of(Format::Deflate { decompress: Decompress::new(false), zlib: false })
    }

    /// Bare deflate that goes on behind this, of which there may be 64 KiB.
    ///
    /// # Errors
    ///
    /// Where there is more.
    pub fn behind(history: [&[u8]; 2]) -> Result<Self, Unreadable> {
        let history = history.concat();
        let size = u16::try_from(history.len()).map_err(|_| Unreadable)?;
        // A stored block (RFC 1951, section 3.2.4) says nothing else than that.
        let mut block = vec![0];
        block.extend(size.to_le_bytes().into_iter().chain((!size).to_le_bytes()));
        block.extend(history);
        let mut stream = Self::raw();
        stream.run(&block, &mut Vec::new(), 0)?;
        Ok(stream)
    }

    /// See [`Inflate::lose`].
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether it is deflate.
    pub fn is_deflate(&self) -> bool {
        matches!(self.format, Format::Deflate { .. })
    }

    /// With zlib's header (RFC 1950).
    pub fn zlib() -> Self {
        Self::of(Format::Deflate { decompress: Decompress::new(true), zlib: true })
    }

    /// Zstandard (RFC 8878); `None` where the library refuses.
    pub fn zstd() -> Option<Self> {
        let mut decoder = Decoder::new().ok()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).ok()?;
        Some(Self::of(Format::Zstd(decoder)))
    }

    /// A message begins.
    pub fn begin(&mut self) {
        self.made = 0;
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
    pub fn run(&mut self, mut bytes: &[u8], into: &mut Vec<u8>, most: usize) -> Result<bool, Unreadable> {
        if self.lost {
            return Err(Unreadable);
        }
        let mut fits = true;
        let mut buffer = [0; STEP];
        loop {
            let Ok(Step { taken, given }) = self.format.step(bytes, &mut buffer) else {
                self.lost = true;
                return Err(Unreadable);
            };
            self.made += given as u64;
            if self.made > MADE_MAX {
                self.lost = true;
                return Err(Unreadable);
            }
            bytes = bytes.get(taken..).unwrap_or_default();
            if fits && into.len() + given <= most {
                into.extend_from_slice(&buffer[..given]);
            } else {
                fits &= given == 0;
            }
            if bytes.is_empty() && given < STEP || taken == 0 && given == 0 {
                return Ok(fits);
            }
        }
    }
}
