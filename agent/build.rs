//! Puts the compiled kernel side where the agent includes it.

use std::{env, fs, path::PathBuf};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("adder-programs");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let built = root.join("target/ebpf/adder-programs");
    println!("cargo::rerun-if-changed={}", built.display());
    if let Err(error) = fs::copy(&built, &out) {
        // The parsers and the engine build and test without the kernel side; an agent without it says so when it runs.
        println!("cargo::warning=no kernel side in this build, run `cargo xtask build-ebpf` first ({error})");
        fs::write(&out, []).expect("OUT_DIR is writable");
    }
}
