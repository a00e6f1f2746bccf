//! Code objects: which function, in which file, and whether it is the application's own.

mod lines;

pub use self::lines::Format;

use serde::{Deserialize, Serialize};

use crate::discover::glob;

/// What is known of a code object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeInfo {
    /// Its address.
    pub address: u64,
    /// `co_qualname`, before 3.11 `co_name`; empty where there is no code object at the address.
    pub name: String,
    /// `co_filename`.
    pub file: String,
    /// `co_firstlineno`: where the function's definition begins.
    pub first_line: u32,
    /// How `lines` is laid out.
    pub format: Format,
    /// Its line table.
    pub lines: Vec<u8>,
}

impl CodeInfo {
    /// Line of an instruction, as the kernel side gives its place ([`adder_ebpf::Stack`]).
    pub fn line(&self, unit: u16) -> Option<u32> {
        if unit == adder_ebpf::FAR {
            return None;
        }
        lines::line(self.format, &self.lines, self.first_line, unit)
    }
}

/// Which code is the application's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Patterns of files that are, whatever is said below.
    pub application: Vec<String>,
    /// Patterns of files that are not.
    pub libraries: Vec<String>,
}

impl Options {
    /// Whether a code object is the application's own: neither the standard library's, nor an installed package's, nor
    /// a script's that only starts one.
    pub fn is_own(&self, code: &CodeInfo) -> bool {
        let fits = |patterns: &[String]| patterns.iter().any(|pattern| glob(pattern, &code.file));
        if code.name.is_empty() {
            return false;
        }
        if fits(&self.application) {
            return true;
        }
        // `<frozen importlib._bootstrap>`, `<string>`.
        if fits(&self.libraries) || code.file.is_empty() || code.file.starts_with('<') {
            return false;
        }
        let mut folders = code.file.rsplit('/').skip(1);
        if code.name == "<module>" && folders.next() == Some("bin") {
            return false;
        }
        let is_library = |folder: &str| {
            folder == "site-packages"
                || folder == "dist-packages"
                || folder.strip_prefix("python3").is_some_and(is_minor)
        };
        !code.file.rsplit('/').skip(1).any(is_library)
    }
}

/// What follows `python3` in the folder of a standard library: `.11`, `.13t`, or nothing.
fn is_minor(rest: &str) -> bool {
    rest.is_empty()
        || rest.strip_prefix('.').is_some_and(|minor| minor.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_own(name: &str, file: &str) -> bool {
        let code = CodeInfo { name: name.into(), file: file.into(), ..CodeInfo::default() };
        Options::default().is_own(&code)
    }

    #[test]
    fn what_is_installed_is_not_the_applications() {
        assert!(is_own("list_games", "/srv/app/games.py"));
        assert!(is_own("<module>", "worker.py"));
        assert!(is_own("<module>", "/srv/python3-service/main.py"));
        assert!(!is_own("run", "/usr/local/lib/python3.13/asyncio/runners.py"));
        assert!(!is_own("run", "/usr/lib/python3/dist-packages/psycopg2/extras.py"));
        assert!(!is_own("app", "/srv/app/.venv/lib/python3.11/site-packages/starlette/routing.py"));
        assert!(!is_own("_call", "<frozen importlib._bootstrap>"));
        assert!(!is_own("<module>", "/srv/app/.venv/bin/uvicorn"));
        assert!(!is_own("", "/srv/app/games.py"));
    }

    #[test]
    fn patterns_decide_first() {
        let options = Options {
            application: vec!["*/site-packages/our_app/*".into()],
            libraries: vec!["/srv/app/vendor/*".into()],
        };
        let own = |file: &str| {
            options.is_own(&CodeInfo { name: "f".into(), file: file.into(), ..CodeInfo::default() })
        };
        assert!(own("/venv/lib/python3.11/site-packages/our_app/main.py"));
        assert!(!own("/srv/app/vendor/queue.py"));
        assert!(own("/srv/app/main.py"));
    }
}
