//! Building the kernel side.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::setup::{self, root};

const TARGET: &str = "bpfel-unknown-none";
const FLAGS: &str = "-C debuginfo=2 -C link-arg=--btf --cfg bpf_target_arch=\"x86_64\"";

/// How `core` comes to the BPF target.
enum Core {
    /// Built from rustup's `rust-src` by the pinned toolchain.
    Source,
    /// Ready made, from Debian's packages.
    Debian,
}

/// Builds the kernel side into `target/ebpf/adder-programs`, where the agent's build takes it.
pub(crate) fn build() -> Result<()> {
    let linker = setup::bpf_linker()?;
    let core = core()?;
    let folder = root().join("target/ebpf");
    let mut path = std::ffi::OsString::from(linker.parent().unwrap_or(Path::new(".")));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = match core {
        Core::Source => {
            let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            command.arg("build").args(["-Z", "build-std=core"]);
            command
        }
        Core::Debian => {
            let mut command = Command::new("/usr/bin/cargo");
            command.env("RUSTC", "/usr/bin/rustc").arg("build");
            command
        }
    };
    let status = command
        .args(["--quiet", "--package", "adder-ebpf", "--bin", "adder-programs", "--features", "programs"])
        .args(["--release", "--target", TARGET, "--target-dir"])
        .arg(&folder)
        // Nightly options of a stable toolchain: `build-std`, and the intrinsics of the kernel side.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("PATH", path)
        .current_dir(root())
        .status()
        .context("starting cargo for the kernel side")?;
    ensure!(status.success(), "building the kernel side: {status}");
    let built = folder.join(TARGET).join("release/adder-programs");
    let object = fs::read(&built).with_context(|| built.display().to_string())?;
    let wanted = folder.join("adder-programs");
    // The agent is rebuilt when this file changes, so leave it alone when it does not.
    if fs::read(&wanted).ok().as_ref() != Some(&object) {
        fs::write(&wanted, object).with_context(|| wanted.display().to_string())?;
    }
    Ok(())
}

fn core() -> Result<Core> {
    if has_source() {
        return Ok(Core::Source);
    }
    println!("setup: rust-src by rustup (the kernel side needs a `core` of its own)");
    let added = Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(root()).status();
    if added.is_ok_and(|status| status.success()) && has_source() {
        return Ok(Core::Source);
    }
    setup::debian(
        &[
            ("/usr/bin/cargo", "cargo-web"),
            ("/usr/bin/rustc", "rustc-web"),
            ("/usr/lib/rustlib/bpfel-unknown-none", "libstd-rust-web-dev-bpf"),
        ],
        "rustup has no rust-src to give: a ready `core` for BPF",
    )?;
    Ok(Core::Debian)
}

fn has_source() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()).output();
    sysroot.is_ok_and(|output| {
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
    })
}
