//! Memory of another process, read and never written.

use std::{fs, io, path::PathBuf};

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Readable.
    pub readable: bool,
    /// Writable.
    pub writable: bool,
    /// Executable.
    pub executable: bool,
    /// Offset in the file.
    pub offset: u64,
    /// Path as the process itself sees it; empty for anonymous memory.
    pub path: String,
}

/// Reads the mappings of a process.
pub fn read_maps(pid: u32) -> io::Result<Vec<Mapping>> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(text.lines().filter_map(parse_line).collect())
}

fn parse_line(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let rights = words.next()?.as_bytes();
    let offset = words.next()?;
    let path = words.nth(2).unwrap_or_default().trim_start();
    let has = |at: usize, letter: u8| rights.get(at) == Some(&letter);
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        readable: has(0, b'r'),
        writable: has(1, b'w'),
        executable: has(2, b'x'),
        offset: u64::from_str_radix(offset, 16).ok()?,
        path: path.to_owned(),
    })
}

/// The memory of a process, by `process_vm_readv(2)`.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pid: u32,
}

impl Memory {
    /// The memory of this process.
    pub fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// Fills `into` from `address`; false where not all of it can be read.
    pub fn read(self, address: u64, into: &mut [u8]) -> bool {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
        // SAFETY: `local` covers `into` exactly; `remote` is checked by the kernel.
        let read =
            unsafe { libc::process_vm_readv(self.pid as i32, &raw const local, 1, &raw const remote, 1, 0) };
        read == into.len() as isize
    }

    /// The word at an address.
    pub fn word(self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// As many of `count` words from `address` on as can be read in whole pages.
    pub fn words(self, address: u64, count: usize) -> Vec<u64> {
        let mut bytes = vec![0; count * 8];
        let mut length = bytes.len();
        while length > 0 && !self.read(address, &mut bytes[..length]) {
            // The range runs out of its mapping: try again up to the page before.
            let end = address.wrapping_add(length as u64 - 1) & !0xfff;
            length = end.saturating_sub(address) as usize;
        }
        bytes[..length]
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect()
    }
}

/// A file that a process has mapped, as a path that this process can open. The kernel's link from the mapping leads to
/// the very file in every mount namespace, also where another has taken its place meanwhile; it needs `CAP_SYS_ADMIN`
/// or `CAP_CHECKPOINT_RESTORE` (`proc_pid_map_files(5)`). Without, the path is followed from the target's own root.
pub(super) fn mapped_file(pid: u32, maps: &[Mapping], path: &str) -> PathBuf {
    maps.iter()
        .find(|mapping| mapping.path == path)
        .map(|mapping| PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end)))
        .filter(|link| link.metadata().is_ok())
        .unwrap_or_else(|| PathBuf::from(format!("/proc/{pid}/root{path}")))
}
