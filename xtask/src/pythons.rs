//! The Pythons of the whole matrix, beyond those that a machine happens to have: a stripped one with a shared library,
//! and Debian's newest in a root file system of its own, as in a container.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    kernel::{self, output},
    setup::{self, debian, root, run},
};

/// Oldest and newest minor version of the matrix.
const VERSIONS: std::ops::RangeInclusive<u32> = 8..=13;

/// An environment for each Python of the matrix.
pub(crate) fn environments(requirements: &Path) -> Result<()> {
    let pythons = setup::pythons();
    for minor in VERSIONS {
        let prefix = format!("3.{minor}.");
        match pythons.iter().rev().find(|(label, _)| label.starts_with(&prefix)) {
            Some((label, python)) => {
                setup::venv(python, label, requirements)?;
            }
            None => println!("skipped: no CPython 3.{minor} on this machine"),
        }
    }
    match pythons.iter().find(|(label, _)| label.starts_with("debian-")) {
        Some((label, python)) => {
            setup::venv(python, label, requirements)?;
        }
        None => println!("skipped: no CPython of Debian's on this machine"),
    }
    match pythons.iter().rev().find(|(label, _)| label.starts_with("3.12.")) {
        Some((label, python)) => {
            let name = format!("stripped-{label}");
            setup::venv(&stripped(python, &name)?, &name, requirements)?;
        }
        None => println!("skipped: no CPython 3.12 to strip"),
    }
    // The markers in the requirements are read for the Python whose pip fetches the packages.
    if let Some((_, python)) = pythons.iter().rev().find(|(label, _)| label.starts_with("3.13.")) {
        contained(python, requirements)
    } else {
        println!("skipped: no CPython 3.13, whose pip would fetch the packages for Debian's newest");
        Ok(())
    }
}

/// A copy of an installation without symbols, as container images have it; its interpreter.
fn stripped(python: &Path, name: &str) -> Result<PathBuf> {
    let home = root().join("target/pythons");
    let copy = home.join(name);
    let program = copy.join("bin/python3.12");
    if program.exists() {
        return Ok(program);
    }
    debian(&[("patchelf", "patchelf"), ("strip", "binutils")], "a stripped Python for the matrix")?;
    println!("setup: target/pythons/{name} (a copy without symbols)");
    fs::create_dir_all(&home)?;
    let original = python.parent().and_then(Path::parent).context("an installation has a bin folder")?;
    let unfinished = home.join("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    run(Command::new("cp").arg("-a").arg(original).arg(&unfinished))?;
    let (binary, library) = (unfinished.join("bin/python3.12"), unfinished.join("lib/libpython3.12.so.1.0"));
    ensure!(library.exists(), "{} has no shared library to strip", original.display());
    run(Command::new("patchelf").args(["--set-rpath", "$ORIGIN/../lib"]).arg(&binary))?;
    run(Command::new("strip").arg("--strip-all").args([&binary, &library]))?;
    fs::rename(unfinished, copy)?;
    Ok(program)
}

/// Debian's newest Python in a root file system under `target/roots`, and an environment in it. The environment's
/// `bin/python` enters that root first, in mount and process namespaces of its own.
fn contained(pip: &Path, requirements: &Path) -> Result<()> {
    let home = root().join("target/roots");
    let system = home.join("sid");
    if !system.join("usr/bin/python3").exists() {
        debian(&[("debootstrap", "debootstrap")], "a root file system with Debian's newest Python")?;
        println!("setup: target/roots/sid (Debian's newest Python)");
        fs::create_dir_all(&home)?;
        let unfinished = home.join("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let keys = format!("--keyring={}", kernel::KEYS);
        let mut bootstrap = Command::new("debootstrap");
        bootstrap.args(["--variant=minbase", "--include=python3,python3-venv", &keys, "sid"]);
        output(bootstrap.arg(&unfinished).arg(kernel::mirror()?))?;
        fs::rename(unfinished, &system)?;
    }
    let version = fs::read_link(system.join("usr/bin/python3"))?.display().to_string();
    let version = version.strip_prefix("python").context("python3 names its version")?.to_owned();
    let name = format!("sid-{version}");
    // The sources may have changed.
    let apps = system.join("apps");
    if apps.exists() {
        fs::remove_dir_all(&apps)?;
    }
    run(Command::new("cp").arg("-r").arg(root().join("tests/apps")).arg(&apps))?;
    let venv = root().join("target/venv").join(&name);
    let stamp = venv.join("adder-stamp");
    let wanted = fs::read_to_string(requirements)?;
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    println!("setup: target/venv/{name} in target/roots/sid");
    let wheels = system.join("wheels");
    fs::create_dir_all(&wheels)?;
    fs::copy(requirements, system.join("requirements.txt"))?;
    // Fetched from outside: the new root knows no package index.
    run(Command::new(pip)
        .args(["-m", "pip", "--disable-pip-version-check", "download", "-q", "--only-binary=:all:"])
        .args(["--python-version", &version, "--implementation", "cp", "--no-deps"])
        .args(
            ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
                .iter()
                .flat_map(|tag| ["--platform", tag]),
        )
        .arg("-d")
        .arg(&wheels)
        .arg("-r")
        .arg(requirements))?;
    let inside = |arguments: &[&str]| run(Command::new("chroot").arg(&system).args(arguments));
    inside(&["python3", "-m", "venv", "/venv"])?;
    let install = ["-m", "pip", "install", "-q", "--no-index", "--find-links", "/wheels", "--no-deps", "-r"];
    inside(&[&["/venv/bin/python"], &install[..], &["/requirements.txt"]].concat())?;
    fs::create_dir_all(venv.join("bin"))?;
    let program = venv.join("bin/python");
    let enter = format!(
        "#!/bin/sh\nexec unshare --mount --pid --fork --kill-child --mount-proc --root={} --wd=/apps /venv/bin/python \
         \"$@\"\n",
        system.display()
    );
    fs::write(&program, enter)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::write(stamp, wanted)?;
    Ok(())
}
