//! The smoke test (`tests/src/bin/smoke.rs`) in a stock Debian kernel, booted on this machine's files in an emulator.
//!
//! Nothing of the kernel package is installed: it is unpacked under `target/kernels`, and virtme-ng boots it with this
//! machine's root file system, which the guest sees and cannot change. There is no KVM where tests run, so everything
//! in the guest takes ten to twenty times as long.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::setup::{self, root};

/// Kernels that can be booted, by the name of their series.
pub(crate) const SERIES: [&str; 3] = ["5.10", "6.1", "6.12"];

/// The Debian releases that they come from, in the same order.
const SUITES: [&str; 3] = ["bullseye", "bookworm", "trixie"];

/// Ways of attaching that a stock Debian kernel offers.
const WAYS: [&str; 3] = ["fexit", "tp_btf", "raw_tp"];

const REQUIREMENTS: &str = "virtme-ng==1.42\n";

/// The keys of Debian's releases (package `debian-archive-keyring`).
pub(crate) const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const CPUS: &str = "2";
const MEMORY: &str = "3G";

/// Seconds that the smoke test may take in the guest.
const LIMIT: u32 = 2400;

/// Folders below `/lib/modules/VERSION/kernel` with the modules that virtme-ng puts into its initial file system, whose
/// `insmod` reads no compressed ones.
const EARLY_MODULES: [&str; 8] = [
    "drivers/char",
    "drivers/input",
    "drivers/virtio",
    "fs/9p",
    "fs/fscache",
    "fs/fuse",
    "fs/netfs",
    "net/9p",
];

/// The guest's last line, with the exit code of the smoke test behind it.
const VERDICT: &str = "guest: exit code ";

/// Boots a kernel and runs the smoke test in it, with the services in the virtual environment `venv`; `python` runs
/// virtme-ng.
pub(crate) fn test(series: &str, python: &Path, venv: &Path) -> Result<()> {
    let suite = SERIES.iter().position(|known| *known == series).map(|at| SUITES[at]);
    let suite = suite.with_context(|| format!("no kernel {series}: there are {}", SERIES.join(", ")))?;
    setup::debian(
        &[
            ("qemu-system-x86_64", "qemu-system-x86"),
            // The dynamic one of the package `busybox` would not run in an initial file system.
            ("/usr/share/doc/busybox-static", "busybox-static"),
            ("depmod", "kmod"),
            ("xz", "xz-utils"),
            ("zstd", "zstd"),
            ("ip", "iproute2"),
            (KEYS, "debian-archive-keyring"),
        ],
        "the emulator for other kernels, and what unpacks them",
    )?;
    let home = root().join("target/kernels");
    fs::create_dir_all(&home)?;
    let requirements = home.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    let virtme = setup::venv(python, "virtme", &requirements)?;
    let image = image(&home.join(series), suite)?;
    let script = guest_files(&home, &home.join(series).join("root"), venv)?;
    boot(&virtme, &image, &script, &home.join(series).join("log"))
}

/// The kernel's image in `folder/root/boot`, downloaded where it is not there yet.
fn image(folder: &Path, suite: &str) -> Result<PathBuf> {
    let unpacked = folder.join("root");
    if !unpacked.exists() {
        remove(folder)?;
        fs::create_dir_all(folder)?;
        let package = download(folder, suite)?;
        let unfinished = folder.join("unfinished");
        run(Command::new("dpkg").arg("-x").arg(&package).arg(&unfinished))?;
        fs::remove_file(package)?;
        decompress(&unfinished)?;
        fs::rename(unfinished, &unpacked)?;
    }
    let images = fs::read_dir(unpacked.join("boot"))?.flatten().map(|entry| entry.path());
    let mut images = images.filter(|path| name(path).starts_with("vmlinuz-"));
    images.next().with_context(|| format!("no kernel in {}", unpacked.display()))
}

/// Fetches the newest kernel of a Debian release into `folder`, with apt's own files there too: this machine's package
/// lists are left alone.
fn download(folder: &Path, suite: &str) -> Result<PathBuf> {
    let (lists, cache, sources) = (folder.join("lists"), folder.join("cache"), folder.join("sources.list"));
    fs::create_dir_all(lists.join("partial"))?;
    fs::create_dir_all(cache.join("archives/partial"))?;
    fs::write(&sources, format!("deb [signed-by={KEYS}] {} {suite} main\n", mirror()?))?;
    let options = [
        format!("Dir::Etc::SourceList={}", sources.display()),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
        "Dir::State::Status=/dev/null".to_owned(),
        format!("Dir::State::Lists={}", lists.display()),
        format!("Dir::Cache={}", cache.display()),
        // It could not write below a home folder that is closed to others.
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |program: &str| {
        let mut command = Command::new(program);
        command.arg("-q").args(options.iter().flat_map(|option| ["-o", option])).current_dir(folder);
        command
    };
    output(apt("apt-get").arg("update"))?;
    // The package that always depends on the newest kernel.
    let newest = output(apt("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let newest = newest.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let newest = newest.with_context(|| format!("{suite} has no linux-image-amd64"))?;
    println!("setup: Debian package {newest} into target/kernels (booted in an emulator, not installed)");
    output(apt("apt-get").args(["download", newest]))?;
    for folder in [lists, cache] {
        remove(&folder)?;
    }
    fs::remove_file(sources)?;
    let files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let package = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    package.context("apt-get has downloaded nothing")
}

/// Where this machine gets Debian from.
pub(crate) fn mirror() -> Result<String> {
    let format = "$(ORIGIN) $(RELEASE) $(REPO_URI)";
    let targets =
        output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let uri = targets.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        // Updates and security are archives beside the release.
        ["Debian", release, uri] if !release.contains('-') => Some(uri.to_owned()),
        _ => None,
    });
    uri.context("this machine's package sources name no Debian release")
}

/// Decompresses what [`EARLY_MODULES`] has, where it is compressed (Debian 13 does that).
fn decompress(unpacked: &Path) -> Result<()> {
    let mut folders: Vec<PathBuf> =
        EARLY_MODULES.iter().flat_map(|folder| module_folders(unpacked, folder)).collect();
    let mut compressed = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "xz") {
                compressed.push(path);
            }
        }
    }
    if compressed.is_empty() { Ok(()) } else { run(Command::new("xz").arg("-d").args(compressed)) }
}

/// Writes what the guest runs, on a kernel unpacked in `unpacked`; the path of the script.
///
/// The guest reads this machine's files one message at a time, too slowly for a Python that opens thousands. Those that
/// matter go into one archive, which the guest unpacks into its memory and puts in their places.
fn guest_files(home: &Path, unpacked: &Path, venv: &Path) -> Result<PathBuf> {
    let release = root().join("target/release");
    let (adder, smoke) = (release.join("adder"), release.join("smoke"));
    let python = "import os, sys, sysconfig as s\n\
                  print(s.get_path('stdlib'), os.path.realpath(sys.executable), \
                  os.path.join(s.get_config_var('LIBDIR'), s.get_config_var('INSTSONAME')), sep='\\n')";
    let python = output(Command::new(venv.join("bin/python")).args(["-c", python]))?;
    let python: Vec<PathBuf> = python.lines().map(PathBuf::from).collect();
    let library = python.first().context("Python does not know where its library is")?;
    // Nothing that a virtual environment uses.
    let left_out = ["site-packages", "dist-packages", "test"].map(|folder| library.join(folder));
    let mut copied = vec![venv.to_path_buf(), adder, smoke.clone()];
    // Debian's interpreter has its library inside.
    copied.extend(python.iter().filter(|path| path.exists()).cloned());
    let inside = |path: &PathBuf| path.strip_prefix("/").unwrap_or(path).to_path_buf();
    let archive = home.join("guest.tar");
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--file").arg(&archive).args(["--directory", "/", "--anchored"]);
    tar.args(left_out.iter().flat_map(|path| ["--exclude".into(), inside(path)]));
    run(tar.args(copied.iter().map(inside)))?;

    // Debian has built none for 5.10; the test then says that the kernel does not offer it.
    let tls =
        module(unpacked, "net/tls").map_or_else(String::new, |path| format!("insmod {} &&", quoted(&path)));
    // In its place the guest has a memory file system.
    let rig = root().join("target/rig");
    fs::create_dir_all(&rig)?;
    let copied = copied.iter().map(|path| quoted(path)).collect::<Vec<_>>().join(" ");
    let script = home.join("guest.sh");
    let text = format!(
        "mkdir /run/copy && tar -xf {archive} -C /run/copy &&\n\
         for path in {copied}; do mount --bind \"/run/copy$path\" \"$path\" || exit 1; done\n\
         {tls} mount -t tmpfs rig {rig} && timeout {LIMIT} {smoke} {venv} {ways}\n\
         echo \"{VERDICT}$?\"\n",
        archive = quoted(&archive),
        rig = quoted(&rig),
        smoke = quoted(&smoke),
        venv = quoted(venv),
        ways = WAYS.join(" "),
    );
    fs::write(&script, text)?;
    Ok(script)
}

/// What is in a folder; nothing where there is none.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The folders of this name below `/lib/modules/VERSION/kernel` of an unpacked kernel, wherever its release has that.
fn module_folders(unpacked: &Path, name: &str) -> impl Iterator<Item = PathBuf> {
    let versions =
        ["lib/modules", "usr/lib/modules"].into_iter().flat_map(|modules| entries(&unpacked.join(modules)));
    versions.map(move |version| version.join("kernel").join(name))
}

/// The module in this folder of the kernel's modules, if there is one.
fn module(unpacked: &Path, folder: &str) -> Option<PathBuf> {
    module_folders(unpacked, folder).flat_map(|folder| entries(&folder)).next()
}

/// Boots `image` and runs `script` in it. All that the guest says goes into the file `log`, the test's own lines to
/// standard output too.
fn boot(virtme: &Path, image: &Path, script: &Path, log: &Path) -> Result<()> {
    println!("kernel: booting {} in an emulator; the test takes some minutes", name(image));
    let programs = virtme.join("bin");
    // `vng` starts programs of its environment, and of the system's folders that are not on every user's PATH.
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [programs.clone()].into_iter().chain(env::split_paths(&path)).chain(["/usr/sbin".into()]);
    // Of the two streams the script's output comes on one or the other, as the kernel has devices for it.
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(programs.join("vng"));
    command
        .args(["--verbose", "--disable-kvm", "--user", "root", "--cpus", CPUS, "--memory", MEMORY, "--run"])
        .arg(image)
        .arg("--")
        .arg(format!("sh {}", quoted(script)))
        .env("PATH", env::join_paths(path)?)
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut guest = command.spawn().context("starting vng")?;
    // It holds ends of the pipe for writing.
    drop(command);
    let mut written = File::create(log)?;
    let mut verdict = None;
    let mut has_begun = false;
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        writeln!(written, "{line}")?;
        if let Some(code) = line.strip_prefix(VERDICT) {
            verdict = Some(code.to_owned());
        } else {
            has_begun |= line.starts_with("smoke: ");
            if has_begun && !line.starts_with('[') {
                println!("{line}");
            }
        }
    }
    guest.wait()?;
    let log = log.display();
    match verdict.as_deref() {
        Some("0") => Ok(()),
        Some(code) => bail!("the smoke test failed in {} (exit code {code}); see {log}", name(image)),
        None => bail!("{} has ended before the smoke test; see {log}", name(image)),
    }
}

/// A path as one word of a shell command.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Removes a folder with all in it, where there is one.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn run(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// Runs a command; its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {}", command.get_program().display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, errors.trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
