//! Recordings: the facts of a run in a file, and the run again from them.
//!
//! A gzip stream: a magic, the engine's options (`postcard`, with a length), then facts as [`Fact::write`] lays them
//! out, each with its length. Lengths are little-endian `u32`.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use adder_ebpf::Header;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};

use crate::{
    fact::Fact,
    stitch::{Engine, Options},
};

/// First bytes of a recording (inside the gzip stream); the digit is the version of the format.
const MAGIC: &[u8; 8] = b"adder\0r2";
/// No fact is longer. The longest are tables of routes.
const FACT_MAX: u32 = 1024 * 1024;

/// Why a recording could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be opened, read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The file is not a recording of this version.
    #[error("{0} is not a recording that this version of adder can read")]
    Format(String),
}

/// Writes a recording.
pub struct Recorder {
    path: String,
    out: GzEncoder<BufWriter<File>>,
    buffer: Vec<u8>,
    facts: u64,
}

impl Recorder {
    /// Begins a recording.
    pub fn create(path: &Path, options: &Options) -> Result<Self, RecordError> {
        let name = path.display().to_string();
        let wrap = |error| RecordError::File { path: name.clone(), error };
        // It holds what the services said, passwords and all.
        let mut open = OpenOptions::new();
        let file = open.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(wrap)?;
        let mut out = GzEncoder::new(BufWriter::new(file), Compression::fast());
        let options = postcard::to_stdvec(options).map_err(|error| wrap(io::Error::other(error)))?;
        out.write_all(MAGIC).map_err(wrap)?;
        out.write_all(&(options.len() as u32).to_le_bytes()).map_err(wrap)?;
        out.write_all(&options).map_err(wrap)?;
        Ok(Self { path: name, out, buffer: Vec::new(), facts: 0 })
    }

    /// Adds a fact.
    pub fn write(&mut self, fact: &Fact<'_>) -> Result<(), RecordError> {
        self.buffer.clear();
        self.facts += 1;
        fact.write(&mut self.buffer);
        let length = (self.buffer.len() as u32).to_le_bytes();
        let written = self.out.write_all(&length).and_then(|()| self.out.write_all(&self.buffer));
        written.map_err(|error| RecordError::File { path: self.path.clone(), error })
    }

    /// How many facts it holds.
    pub fn facts(&self) -> u64 {
        self.facts
    }

    /// Ends the recording.
    pub fn finish(self) -> Result<(), RecordError> {
        let path = self.path;
        let done = self.out.finish().and_then(|mut file| file.flush());
        done.map_err(|error| RecordError::File { path, error })
    }
}

/// Runs an engine over a recording; `take` gets it after each fact, to fetch the spans.
pub fn replay(path: &Path, mut take: impl FnMut(&mut Engine)) -> Result<Engine, RecordError> {
    let name = path.display().to_string();
    let wrap = |error| RecordError::File { path: name.clone(), error };
    let format = || RecordError::Format(name.clone());
    let mut input = GzDecoder::new(BufReader::new(File::open(path).map_err(wrap)?));
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).map_err(|_| format())?;
    if magic != *MAGIC {
        return Err(format());
    }
    let mut bytes = Vec::new();
    if !frame(&mut input, &mut bytes).map_err(wrap)? {
        return Err(format());
    }
    let options: Options = postcard::from_bytes(&bytes).map_err(|_| format())?;
    let mut engine = Engine::new(options);
    while frame(&mut input, &mut bytes).map_err(wrap)? {
        engine.take(&bytes);
        take(&mut engine);
    }
    // A recording that was cut off has no last fact.
    engine.fact(&Fact::End(Header::default()));
    take(&mut engine);
    Ok(engine)
}

/// Reads one length and what belongs to it; false at the end.
fn frame(input: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Ok(()) => {}
        // A recording that was cut off ends where it ends.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length);
    if length > FACT_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "a length that no fact has"));
    }
    bytes.resize(length as usize, 0);
    match input.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
