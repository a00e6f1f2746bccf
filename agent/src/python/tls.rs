//! Where the TLS libraries of a process read and write plaintext.
//!
//! OpenSSL's `SSL_read` and `SSL_read_ex` both call `ssl_read_internal` (`ssl/ssl_lib.c`), which has no symbol but begins
//! with an instruction that the kernel emulates, unlike they do: it is found as what they call first.

use super::{
    code::{first_call, is_cheap, probe_offset},
    elf::Elf,
    memory::{Mapping, mapped_file},
    proof::Probe,
};

/// Bytes of code that are looked at.
const CODE: usize = 64;

/// A direction of OpenSSL: the functions, and the programs for them.
struct Way {
    /// The form that returns the number of bytes through a pointer, and the one that returns it.
    functions: [&'static str; 2],
    programs: [&'static str; 2],
}

const WAYS: [Way; 2] = [
    Way { functions: ["SSL_read_ex", "SSL_read"], programs: ["tls_read_ex", "tls_read"] },
    Way { functions: ["SSL_write_ex", "SSL_write"], programs: ["tls_write_ex", "tls_write"] },
];

/// Probes for the TLS libraries that a process has mapped, and what is to be said of them. `main` is its interpreter.
pub(super) fn probes(pid: u32, maps: &[Mapping], main: (&str, &Elf)) -> (Vec<Probe>, Vec<String>) {
    let (mut probes, mut notes) = (Vec::new(), Vec::new());
    let mut seen: Vec<&str> = Vec::new();
    for path in maps.iter().filter(|mapping| mapping.executable).map(|mapping| mapping.path.as_str()) {
        if seen.contains(&path) || !may_hold_tls(path, main.0) {
            continue;
        }
        seen.push(path);
        let read;
        let elf = if path == main.0 {
            main.1
        } else {
            let Ok(parsed) = Elf::read(&mapped_file(pid, maps, path)) else { continue };
            read = parsed;
            &read
        };
        let before = probes.len();
        for way in &WAYS {
            add(pid, maps, path, elf, way, &mut probes);
        }
        // In this order: what is noted of an object is forgotten when it is freed, from the first one on.
        let around = [
            ("SSL_free", "tls_free"),
            ("SSL_set_accept_state", "tls_accept"),
            ("SSL_do_handshake", "tls_handshake"),
        ];
        let found = probes.len() > before;
        for (function, program) in around.into_iter().filter(|_| found) {
            if let Some((address, _)) = elf.symbol(function) {
                let skip = probe_offset(elf.code(address, CODE));
                probes.extend(probe(pid, maps, path, elf, program, address + skip));
            }
        }
        if !found && path == main.0 && !maps.iter().any(|m| is_ssl_module(&m.path)) {
            // Built in: it works, or it is not there; a stripped one hides it.
            if elf.contains(b"OpenSSL 3.") || elf.contains(b"OpenSSL 1.1.") {
                notes.push(format!(
                    "{path} has OpenSSL inside without symbols: what goes over TLS is not readable"
                ));
            }
        }
    }
    (probes, notes)
}

/// Whether a file is worth a look: every name that a libssl goes by (in wheels with a hash behind it), extension modules
/// and clients that may have one inside, the interpreter.
fn may_hold_tls(path: &str, main: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path == main || ["ssl", "psycopg", "libpq", "_pq"].iter().any(|part| name.contains(part))
}

fn is_ssl_module(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with("_ssl.") || name.starts_with("libssl"))
}

fn add(pid: u32, maps: &[Mapping], path: &str, elf: &Elf, way: &Way, probes: &mut Vec<Probe>) {
    let symbols = way.functions.map(|name| elf.symbol(name).map(|(address, _)| address));
    let mut put = |program: &'static str, address: u64| {
        probes.extend(probe(pid, maps, path, elf, program, address));
        probes.extend(probe(pid, maps, path, elf, "tls_return", address));
    };
    if let Some(extended) = symbols[0]
        && let Some(inner) = first_call(elf.code(extended, CODE), extended)
        && is_cheap(elf.code(inner, CODE))
    {
        // `ssl_write_internal` has one argument more since `SSL_write_ex2` came to be.
        let flags = way.functions[0] == "SSL_write_ex" && elf.symbol("SSL_write_ex2").is_some();
        return put(if flags { "tls_write_flags" } else { way.programs[0] }, inner);
    }
    for (program, address) in way.programs.into_iter().zip(symbols) {
        if let Some(address) = address {
            put(program, address);
        }
    }
}

fn probe(
    pid: u32,
    maps: &[Mapping],
    path: &str,
    elf: &Elf,
    program: &'static str,
    address: u64,
) -> Option<Probe> {
    Some(Probe { program, file: mapped_file(pid, maps, path), offset: elf.code_offset(address)? })
}
