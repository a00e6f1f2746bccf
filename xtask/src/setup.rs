//! What a fresh Debian machine lacks: packages, the BPF linker, Python environments.
//!
//! Every function looks first and returns at once where nothing is missing. What it does install it announces in
//! one line with the reason. Nothing that it installs is left running: a service that starts by itself could be
//! mistaken for one of the rig's own, and would stay behind.

use std::{
    env, fs,
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

use anyhow::{Context, Result, bail, ensure};

/// Version of the linker; its LLVM must be the compiler's, see [`LLVM`].
const BPF_LINKER: &str = "0.13.0";

/// Major version of the LLVM in the pinned Rust toolchain.
const LLVM: &str = "22";

/// Oldest minor version of Python 3 that Adder watches.
const OLDEST_PYTHON: u32 = 8;

/// Where `invoke-rc.d` asks whether a service may be started (Debian policy, section 9.3.3).
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Debian packages with a service, and the service.
const SERVICES: &[(&str, &str)] = &[
    ("postgresql-", "postgresql.service"),
    ("redis-server", "redis-server.service"),
    ("nginx", "nginx.service"),
    ("rabbitmq-server", "rabbitmq-server.service"),
];

/// The package lists are brought up to date once a run.
static LISTS: Once = Once::new();

/// The folder of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// Installs those Debian packages whose witness is absent: the name of a program, or an absolute path in which one
/// component may be or contain one `*`.
pub(crate) fn debian(packages: &[(&str, &str)], why: &str) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(witness, _)| !present(witness)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    println!("setup: Debian packages {names} ({why})");
    ensure!(
        present("apt-get"),
        "{names} needed ({why}), but this is no Debian: please install them by other means"
    );
    LISTS.call_once(|| {
        // A list that cannot be fetched is no reason to stop: the packages may be in another one.
        let _ = as_root("apt-get").args(["-qq", "-o", "DPkg::Lock::Timeout=600", "update"]).status();
    });
    let policy = ServicePolicy::deny()?;
    let mut install = as_root("apt-get");
    install.args(["-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600", "install"]);
    let outcome = install.args(&missing).output();
    drop(policy);
    let outcome = outcome.context("starting apt-get")?;
    ensure!(outcome.status.success(), "installing {names}: {}", String::from_utf8_lossy(&outcome.stderr));
    disable_services(&missing);
    match packages.iter().find(|(witness, _)| !present(witness)) {
        None => Ok(()),
        Some((witness, package)) => bail!("{package} is installed, but {witness} is still absent"),
    }
}

/// The BPF linker of [`BPF_LINKER`]'s version, built against Debian's LLVM into `target/tools`; its path.
pub(crate) fn bpf_linker() -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let program = tools.join("bin/bpf-linker");
    let version = Command::new(&program).arg("--version").output();
    if version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim_end().ends_with(BPF_LINKER)) {
        return Ok(program);
    }
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    let config = format!("{prefix}/bin/llvm-config");
    let polly = format!("{prefix}/lib/libPolly.a");
    let (llvm_dev, polly_dev) = (format!("llvm-{LLVM}-dev"), format!("libpolly-{LLVM}-dev"));
    debian(
        &[
            (&config, &llvm_dev),
            (&polly, &polly_dev),
            ("/usr/include/zlib.h", "zlib1g-dev"),
            ("/usr/include/zstd.h", "libzstd-dev"),
            ("cc", "gcc"),
            ("c++", "g++"),
            ("/usr/include/*/sys/types.h", "libc6-dev"),
        ],
        "bpf-linker is built against the compiler's LLVM",
    )?;
    println!(
        "setup: bpf-linker {BPF_LINKER} into target/tools (links the BPF object; takes a minute or two)"
    );
    let mut path = std::ffi::OsString::from(format!("{prefix}/bin:"));
    path.push(env::var_os("PATH").unwrap_or_default());
    // Run away from the workspace, whose build settings are for Adder.
    fs::create_dir_all(&tools)?;
    run(Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["install", "--quiet", "--locked", "--force", "bpf-linker", "--version", BPF_LINKER])
        .args(["--no-default-features", "--features", &format!("llvm-{LLVM}"), "--root"])
        .arg(&tools)
        .current_dir(&tools)
        .env_remove("CARGO_TARGET_DIR")
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", path))
    .context("building bpf-linker")?;
    Ok(program)
}

/// A Python environment `target/venv/NAME` with what `requirements` lists; made anew when the interpreter or the
/// requirements (with the files that they include) have changed. Its folder.
pub(crate) fn venv(python: &Path, name: &str, requirements: &Path) -> Result<PathBuf> {
    let home = root().join("target/venv");
    let folder = home.join(name);
    let stamp = folder.join("adder-stamp");
    let wanted = format!("{}\n{}", python_version(python)?, requirement_text(requirements)?);
    let is_ready = || fs::read_to_string(&stamp).is_ok_and(|found| found == wanted);
    if is_ready() {
        return Ok(folder);
    }
    fs::create_dir_all(&home)?;
    let lock = File::create(home.join(format!("{name}.lock")))?;
    lock.lock()?;
    if is_ready() {
        return Ok(folder);
    }
    if python.starts_with("/usr/bin") {
        let why = "Python environments of the test applications";
        debian(&[("/usr/lib/python3.*/ensurepip", "python3-venv")], why)?;
    }
    println!("setup: target/venv/{name} from {} (test applications)", file_name(requirements));
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    run(Command::new(python).args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(folder.join("bin/python"))
        .args([
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "-q",
            "--no-input",
            "--prefer-binary",
            "-r",
        ])
        .arg(requirements))
    .with_context(|| format!("filling target/venv/{name}"))?;
    fs::write(&stamp, wanted)?;
    Ok(folder)
}

/// The Pythons of this machine that Adder knows, oldest first: those of pyenv, then Debian's own. The label is the
/// version, `3.11.7` or `debian-3.11`.
pub(crate) fn pythons() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let pyenv = env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv")));
    let versions = pyenv.and_then(|pyenv| fs::read_dir(pyenv.join("versions")).ok());
    for entry in versions.into_iter().flatten().flatten() {
        let label = entry.file_name().to_string_lossy().into_owned();
        let program = entry.path().join("bin/python");
        if let Some(version) = known_version(&label)
            && program.exists()
        {
            found.push((version, label, program));
        }
    }
    found.sort();
    let mut pythons: Vec<_> = found.into_iter().map(|(_, label, program)| (label, program)).collect();
    let system = PathBuf::from("/usr/bin/python3");
    if let Ok(target) = fs::canonicalize(&system)
        && let Some(version) = file_name(&target).strip_prefix("python")
        && known_version(version).is_some()
    {
        pythons.push((format!("debian-{version}"), system));
    }
    pythons
}

/// `3.11.7` or `3.11` as numbers, where it is a plain release that Adder watches.
fn known_version(text: &str) -> Option<Vec<u32>> {
    let version: Vec<u32> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match version[..] {
        [3, minor, ..] if minor >= OLDEST_PYTHON => Some(version),
        _ => None,
    }
}

fn python_version(python: &Path) -> Result<String> {
    let code = "import sys; print(sys.version)";
    let output = Command::new(python)
        .args(["-I", "-S", "-c", code])
        .output()
        .with_context(|| format!("running {}", python.display()))?;
    ensure!(output.status.success(), "{} does not run", python.display());
    Ok(String::from_utf8_lossy(&output.stdout).trim().replace('\n', " "))
}

/// The text of a requirements file and of the files it includes with `-r`.
fn requirement_text(requirements: &Path) -> Result<String> {
    let mut text =
        fs::read_to_string(requirements).with_context(|| format!("reading {}", requirements.display()))?;
    let included: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.strip_prefix("-r "))
        .map(|name| requirements.with_file_name(name.trim()))
        .collect();
    for file in included {
        text.push_str(&requirement_text(&file)?);
    }
    Ok(text)
}

fn present(witness: &str) -> bool {
    if let Some((before, after)) = witness.split_once('*') {
        return expand(before, after).next().is_some();
    }
    if witness.starts_with('/') {
        return Path::new(witness).exists();
    }
    // Servers live in the sbin folders, which are not on every user's PATH.
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(witness).is_file())
}

/// Existing paths of the form `before*after`, where the star stands within one component.
fn expand(before: &str, after: &str) -> impl Iterator<Item = PathBuf> {
    let (folder, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let (suffix, rest) = after.split_once('/').map_or((after, ""), |(suffix, rest)| (suffix, rest));
    let entries = fs::read_dir(format!("{folder}/")).into_iter().flatten().flatten();
    entries
        .filter(move |entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.strip_prefix(prefix).is_some_and(|tail| tail.ends_with(suffix))
        })
        .map(move |entry| if rest.is_empty() { entry.path() } else { entry.path().join(rest) })
        .filter(|path| path.exists())
}

/// Keeps package scripts from starting services, for as long as it lives.
struct ServicePolicy {
    is_ours: bool,
}

impl ServicePolicy {
    fn deny() -> Result<Self> {
        // A machine that has a policy (containers do) keeps its own.
        if Path::new(SERVICE_POLICY).exists() {
            return Ok(Self { is_ours: false });
        }
        let script =
            format!("printf '#!/bin/sh\\nexit 101\\n' > {SERVICE_POLICY} && chmod 755 {SERVICE_POLICY}");
        run(as_root("sh").args(["-c", &script]))?;
        Ok(Self { is_ours: true })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = as_root("rm").args(["-f", SERVICE_POLICY]).status();
        }
    }
}

/// The policy keeps the services of packages just installed from starting now; this keeps them from starting at the
/// next boot.
fn disable_services(packages: &[&str]) {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    for (_, service) in
        SERVICES.iter().filter(|(name, _)| packages.iter().any(|package| package.starts_with(name)))
    {
        let _ = as_root("systemctl").args(["--quiet", "disable", service]).status();
    }
}

/// A command that runs as root, without questions.
fn as_root(program: &str) -> Command {
    let is_root =
        fs::metadata("/proc/self").is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0);
    let mut command = if is_root {
        Command::new("env")
    } else {
        let mut command = Command::new("sudo");
        command.arg("env");
        command
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", program]);
    command
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {}", command.get_program().display()))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
