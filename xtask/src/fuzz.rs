//! The fuzz targets with the stable compiler: LLVM's pass gives libFuzzer the coverage that it steers by.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{cargo, run, setup::root};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What `cargo fuzz` gives the compiler besides sanitizers, which want a nightly one.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
                     -Cdebug-assertions -Ccodegen-units=1 -Copt-level=2";

/// Feeds each target, or one, with random bytes for so many seconds. What breaks it is kept under `target/fuzz`.
pub(crate) fn fuzz(only: Option<&str>, seconds: u64) -> Result<()> {
    let (source, folder) = (root().join("tests/fuzz"), root().join("target/fuzz"));
    let mut build = cargo(&["build", "--quiet", "--target", TRIPLE, "--manifest-path"]);
    build.arg(source.join("Cargo.toml")).arg("--target-dir").arg(&folder).env("RUSTFLAGS", FLAGS);
    run(&mut build)?;
    let files = fs::read_dir(source.join("fuzz_targets")).context("the fuzz targets")?;
    let mut targets: Vec<_> =
        files.filter_map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
    targets.retain(|target| only.is_none_or(|only| only == target));
    ensure!(!targets.is_empty(), "there is no such fuzz target: see tests/fuzz/fuzz_targets");
    targets.sort();
    for target in targets {
        let corpus = folder.join("corpus").join(&target);
        fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
        println!("fuzzing {target} for {seconds} s");
        let mut command = Command::new(folder.join(TRIPLE).join("debug").join(&target));
        command.arg(&corpus).arg("-max_len=4096").arg("-verbosity=0").arg("-print_final_stats=1");
        command.arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-artifact_prefix={}/{target}-", folder.display()));
        let dictionary = source.join("dictionaries").join(format!("{target}.dict"));
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        run(&mut command).with_context(|| format!("{target}: what broke it is in {}", folder.display()))?;
    }
    Ok(())
}
