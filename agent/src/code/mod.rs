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

    /// Whether it is a framework's function that calls handlers.
    pub fn calls_handlers(&self) -> bool {
        self.is_among(&CALLERS)
    }

    /// Whether a stack need not go beyond it.
    pub fn ends_stack(&self) -> bool {
        self.is_loop() || self.calls_handlers() || self.is_among(&FRAMEWORKS)
    }

    /// Whether it is a function of an event loop that has called everything inside of it.
    pub fn is_loop(&self) -> bool {
        self.is_among(&LOOPS)
    }

    /// Whether a loop calls it when a socket can be written to, to send what others have left there.
    pub fn flushes(&self) -> bool {
        self.is("pika/adapters/utils/io_services_utils.py", "_on_socket_writable")
    }

    /// Whether asyncio's loop calls it when a socket can be written to, to send what the socket did not take before.
    pub fn sends_rest(&self) -> bool {
        self.is_among(&RESTS)
    }

    /// Whether asyncio wakes there who waits at a queue.
    pub fn makes_room(&self) -> bool {
        self.is("asyncio/queues.py", "_wakeup_next")
    }

    /// Whether httpcore (httpx) sends there what has gathered on a connection of HTTP/2, by whomever; if so, who share it.
    pub fn shares_writes(&self) -> Option<Sharers> {
        let file = SHARERS.iter().find(|(file, _)| self.is(file, "_write_outgoing_data"));
        file.map(|(_, sharers)| *sharers)
    }

    /// Whether httpcore does there what one request needs; it has the local variables `self` and `stream_id`.
    pub fn cares_for_stream(&self) -> bool {
        SHARERS.iter().any(|(file, _)| STREAMS.iter().any(|name| self.is(file, name)))
    }

    /// Whether it belongs to the calls of `grpc.aio`.
    pub fn is_in_stubs(&self) -> bool {
        self.is_in(STUBS)
    }

    /// Whether the task of such a call is made there.
    pub fn makes_call(&self) -> bool {
        self.is(STUBS, "__init__")
    }

    fn is_among(&self, functions: &[(&str, &str)]) -> bool {
        functions.iter().any(|(file, name)| self.is(file, name))
    }

    /// Whether it is a function with this last part of its name, in a file whose path ends so.
    pub fn is(&self, file: &str, name: &str) -> bool {
        self.name.rsplit('.').next() == Some(name) && self.is_in(file)
    }

    fn is_in(&self, file: &str) -> bool {
        self.file.strip_suffix(file).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
    }
}

/// Who share a connection of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharers {
    /// Tasks of an event loop.
    Tasks,
    /// Threads.
    Threads,
}

/// asyncio's `_SelectorSocketTransport`; the latter two since 3.12.
const RESTS: [(&str, &str); 3] = [
    ("asyncio/selector_events.py", "_write_ready"),
    ("asyncio/selector_events.py", "_write_send"),
    ("asyncio/selector_events.py", "_write_sendmsg"),
];

/// HTTP/2 of httpcore.
const SHARERS: [(&str, Sharers); 2] =
    [("httpcore/_async/http2.py", Sharers::Tasks), ("httpcore/_sync/http2.py", Sharers::Threads)];

/// Functions there for one request, the last part of the name.
const STREAMS: [&str; 4] =
    ["handle_async_request", "handle_request", "_receive_response_body", "_response_closed"];

/// The calls of `grpc.aio`.
const STUBS: &str = "grpc/aio/_call.py";

/// Functions of frameworks that call the application's handler, and nothing else: file, and the last part of the name.
const CALLERS: [(&str, &str); 5] = [
    ("fastapi/routing.py", "run_endpoint_function"),
    ("flask/app.py", "dispatch_request"),
    ("discord/app_commands/commands.py", "_do_call"),
    ("discord/ext/commands/core.py", "wrapped"),
    ("celery/app/trace.py", "__protected_call__"),
];

/// Functions of frameworks that call the handler, but middleware too, or what comes before it.
const FRAMEWORKS: [(&str, &str); 5] = [
    ("starlette/routing.py", "app"),
    ("starlette/endpoints.py", "dispatch"),
    ("django/core/handlers/base.py", "_get_response"),
    ("django/core/handlers/base.py", "_get_response_async"),
    ("aiohttp/web_app.py", "_handle"),
];

/// Functions of an event loop from which everything is called: what lies outside of them has only started the loop.
const LOOPS: [(&str, &str); 7] = [
    ("uvloop/__init__.py", "run"),
    ("asyncio/events.py", "_run"),
    ("asyncio/base_events.py", "_run_once"),
    ("asyncio/base_events.py", "run_forever"),
    ("asyncio/base_events.py", "run_until_complete"),
    ("asyncio/runners.py", "run"),
    ("uvicorn/server.py", "run"),
];

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
