//! Adder: traces of Python services, taken from the kernel.
//!
//! The way of the data, and the module of each step:
//!
//! 1. [`probe`] loads the programs of the `adder-ebpf` crate and drains what they report;
//! 2. [`fact`] is one report; [`record`] stores facts and runs the engine from them again;
//! 3. [`conn`] makes byte streams of facts and finds the protocol on each;
//! 4. [`protocol`] makes operations of bytes;
//! 5. [`stitch`] finds out what caused each operation, and makes spans;
//! 6. [`signal`] is what leaves, and [`export`] brings it to a collector or to the terminal.
//!
//! Beside it, [`discover`] finds processes and says who they are, [`python`] proves where an interpreter keeps its
//! contexts, [`run`] holds it all together, [`config`], [`status`] and [`doctor`] are for people.
//! Everything from [`fact`] to [`signal`] is pure: no clock, no I/O.

pub mod code;
pub mod config;
pub mod conn;
pub mod discover;
pub mod doctor;
pub mod export;
pub mod fact;
pub mod logs;
pub mod probe;
pub mod protocol;
pub mod python;
pub mod record;
pub mod run;
pub mod signal;
pub mod status;
pub mod stitch;
