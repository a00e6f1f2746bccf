//! The way into the kernel: loading the programs, attaching them, draining what they report.

mod attach;
mod attacher;
mod offsets;
mod perf;
mod uprobe;

pub use attach::{AttachWay, Bpf, LoadError, ProgramStat, Settings, Taken};
pub use attacher::Attached;
pub use offsets::{OffsetsError, kernel_offsets};
