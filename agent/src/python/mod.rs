//! `CPython`, read from outside: where the context of a thread is, and where contexts come from.
//!
//! Nothing is believed because a table says so. The slot of the thread state is found by looking for the thread
//! states themselves, and the kernel side checks the type of every context that it reads.

mod code;
mod elf;
mod frames;
mod memory;
mod objects;
mod proof;
mod routes;
mod stack;
mod tls;

pub use frames::{CodeStamp, Codes};
pub use memory::{Mapping, Memory, read_maps};
pub use proof::{Attribution, Probe, Proof, ProofError, prove};
pub use routes::routes;
pub use stack::{Whereabouts, whereabouts};

/// The minor number of a version such as `3.11`; 0 where there is none.
pub fn minor(version: &str) -> u32 {
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or_default()
}
