//! Adder against the OpenTelemetry SDK for Python: the same requests to the same services, first instrumented by the
//! SDK, then watched by Adder, and the two trees of each request side by side.
//!
//! Everything is compared: parents, kinds, names, statuses, events, attributes. What may differ is in one table
//! ([`table::ROWS`]), which stands in `docs/differences-from-the-sdk.md` too. A difference that is in no row fails the
//! test, and so does a row that nothing needs any more.

#[path = "sdk/table.rs"]
mod table;
#[path = "sdk/tree.rs"]
mod tree;

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use adder_tests::{
    agent::Agent,
    collector::{Collector, Protocol},
    python::EventLoop,
    root,
    stack::{PATHS, Stack, Wanted, venv},
};
use table::ROWS;
use tree::{Difference, Run, What, compare};

/// Requests that are no success, and methods other than GET, besides every kind of endpoint.
const OTHERS: [&str; 5] = ["GET /nowhere", "GET /games/100000", "GET /hit/x", "POST /hit/7", "DELETE /truth"];
/// How often each request is sent on one connection.
const ALONE: usize = 3;
/// How often each request is sent by several connections at the same time.
const TOGETHER: usize = 16;
/// Connections at the same time.
const CONNECTIONS: usize = 16;
/// Time in which background work of the last requests ends.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// How many places are told of a difference that is in no row.
const PLACES: usize = 3;

/// One request of the set.
struct Request {
    number: usize,
    /// Method and path.
    line: String,
}

impl Request {
    /// The whole set, in the order of sending: numbers are the same in both runs.
    fn all() -> Vec<Self> {
        let lines: Vec<_> =
            PATHS.iter().map(|path| format!("GET {path}")).chain(OTHERS.map(str::to_owned)).collect();
        (0..lines.len() * (ALONE + TOGETHER))
            .map(|number| {
                let line = lines[number % lines.len()].replace("{n}", &(number + 1).to_string());
                Self { number, line }
            })
            .collect()
    }

    /// Method and path without numbers, as differences are told of.
    fn kind(&self) -> String {
        self.line
            .split_inclusive('/')
            .map(|part| if part.parse::<u32>().is_ok() { "{n}" } else { part })
            .collect()
    }

    /// The bytes. Each third request comes with a trace of its own.
    fn bytes(&self, port: u16) -> String {
        let Self { number, line } = self;
        let trace = match number % 3 {
            0 => format!("traceparent: 00-{:032x}-{:016x}-01\r\n", number + 1, number + 1),
            _ => String::new(),
        };
        let body = if line.starts_with("POST") { "Content-Length: 5\r\n\r\nhello" } else { "\r\n" };
        let head = "User-Agent: adder-sdk\r\n";
        format!("{line}?rid=r{number} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{head}{trace}{body}")
    }
}

/// Sends the set.
fn send(port: u16) -> io::Result<()> {
    let requests = Request::all();
    let (alone, together) = requests.split_at(requests.len() / (ALONE + TOGETHER) * ALONE);
    for (requests, connections) in [(alone, 1), (together, CONNECTIONS)] {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let client = || client(port, requests, &next);
            let clients: Vec<_> = (0..connections).map(|_| scope.spawn(client)).collect();
            clients.into_iter().try_for_each(|client| client.join().expect("a client ends"))
        })?;
    }
    Ok(())
}

/// One connection, one request after the other.
fn client(port: u16, requests: &[Request], next: &AtomicUsize) -> io::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?);
    stream.get_ref().set_nodelay(true)?;
    while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        stream.get_mut().write_all(request.bytes(port).as_bytes())?;
        read_answer(&mut stream)?;
    }
    Ok(())
}

/// Reads a response to its end.
fn read_answer(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    let mut line = String::new();
    let mut length = None;
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse::<u64>().ok();
        }
    }
    if let Some(length) = length {
        io::copy(&mut stream.by_ref().take(length), &mut io::sink())?;
        return Ok(());
    }
    // In chunks: a size, that many bytes, an empty line; the last is empty.
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        io::copy(&mut stream.by_ref().take(size + 2), &mut io::sink())?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// The services with the SDK in them.
fn run_sdk() -> Run {
    let collector = Collector::start().expect("a collector");
    let venv = venv("sdk").expect("a virtual environment");
    let wanted = Wanted {
        name: "sdk-sdk",
        venv: &venv,
        event_loop: EventLoop::Uvloop,
        // All conventions that are stable, and no span thrown away.
        variables: vec![
            ("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100000"),
        ],
        sdk: Some(&collector),
        logged: false,
        encrypted: false,
    };
    let mut stack = Stack::start(&wanted).expect("the stack starts");
    send(stack.games.port()).expect("the requests are answered");
    thread::sleep(AFTERWARDS);
    // The SDK sends what it has when its process ends.
    stack.games.stop().expect("games-api ends");
    stack.players.stop().expect("players-api ends");
    Run::new(&collector.spans(), &tree::ports(&stack))
}

/// The services as they are, watched by Adder.
fn run_adder() -> Run {
    let collector = Collector::start().expect("a collector");
    let venv = venv("3.11").expect("a virtual environment");
    let wanted = Wanted {
        name: "sdk-adder",
        venv: &venv,
        event_loop: EventLoop::Uvloop,
        variables: vec![],
        sdk: None,
        logged: false,
        encrypted: false,
    };
    let stack = Stack::start(&wanted).expect("the stack starts");
    let mut variables = collector.env(Protocol::Grpc);
    // The SDK leaves SQL as it is.
    variables.push(("ADDER_SQL_TEXT".into(), "raw".into()));
    let pids = stack.pids();
    let mut arguments = vec!["run"];
    arguments.extend(pids.iter().map(String::as_str));
    let agent = Agent::start(&stack.dir, &arguments, variables).expect("adder starts");
    send(stack.games.port()).expect("the requests are answered");
    thread::sleep(AFTERWARDS);
    let (status, lines) = agent.stop().expect("adder stops");
    assert!(status.success(), "adder ends well: {lines:#?}");
    Run::new(&collector.spans(), &tree::ports(&stack))
}

/// Counts differences by the row that allows them, and keeps those that no row allows.
#[derive(Default)]
struct Report {
    used: BTreeMap<usize, usize>,
    refused: BTreeMap<String, Vec<String>>,
}

impl Report {
    /// Whether a row allows it.
    fn allows(&mut self, difference: &Difference<'_>) -> bool {
        let row = ROWS.iter().position(|row| (row.fits)(difference));
        if let Some(row) = row {
            *self.used.entry(row).or_default() += 1;
        }
        row.is_some()
    }

    fn take(&mut self, difference: &Difference<'_>) {
        if self.allows(difference) {
            return;
        }
        let Difference { request, what, adder, sdk } = *difference;
        let value = |node: Option<&tree::Node>| {
            let Some(node) = node else { return "no such span".to_owned() };
            match what {
                What::Span => format!("{:?} {:?}", node.name, node.attributes),
                What::Parent => format!("{:?}", node.remote),
                What::Name => format!("{:?} {:?}", node.kind, node.name),
                What::Status => format!("{:?}", node.error),
                What::Event(_) => format!("{:?}", node.events),
                What::Attribute(key) => format!("{:?}", node.attribute(key)),
            }
        };
        let node = adder.or(sdk).expect("a difference has a span");
        let library = sdk.map_or("", |sdk| &sdk.scope);
        let side = if sdk.is_none() {
            "only Adder"
        } else if adder.is_none() {
            "only the SDK"
        } else {
            "both"
        };
        let sort = format!("{what:?} of {:?} spans ({side}, {library})", node.kind);
        let place = format!("{request}, {:?}: Adder {}, SDK {}", node.name, value(adder), value(sdk));
        self.refused.entry(sort).or_default().push(place);
    }
}

#[test]
fn adder_shows_what_the_sdk_shows_but_for_the_differences_in_the_table() {
    let Run { requests: mut sdk, mut strays } = run_sdk();
    let Run { requests: adder, strays: adder_strays } = run_adder();
    let mut report = Report::default();
    let mut spans = 0;
    for request in Request::all() {
        let Request { number, .. } = request;
        let kind = request.kind();
        let roots = (adder.get(&number).map(Vec::as_slice), sdk.get_mut(&number).map(Vec::as_mut_slice));
        let (Some([adder]), Some([sdk])) = roots else {
            let counts =
                format!("{kind}: Adder {:?}, SDK {:?}", roots.0.map(<[_]>::len), roots.1.map(|s| s.len()));
            report.refused.entry("number of root spans of a request".into()).or_default().push(counts);
            continue;
        };
        spans += adder.size();
        sdk.strip(&mut |node| {
            report.allows(&Difference { request: &kind, what: What::Span, adder: None, sdk: Some(node) })
        });
        compare(&kind, adder, sdk, &mut strays, &mut |difference| report.take(&difference));
    }
    for stray in &adder_strays {
        report.take(&Difference { request: "", what: What::Span, adder: Some(stray), sdk: None });
    }
    for stray in &strays {
        report.take(&Difference { request: "", what: What::Span, adder: None, sdk: Some(stray) });
    }
    println!("{} requests, {spans} spans of Adder; accepted differences:", adder.len());
    for (row, count) in &report.used {
        println!("{count:7} {}", ROWS[*row].place);
    }
    for (sort, places) in &report.refused {
        println!("NOT ACCEPTED: {sort}, {} times", places.len());
        places.iter().take(PLACES).for_each(|place| println!("    {place}"));
    }
    assert!(report.refused.is_empty(), "differences that are in no row of the table");
    let unused = ROWS.iter().enumerate().filter(|(row, _)| !report.used.contains_key(row));
    let unused: Vec<_> = unused.map(|(_, row)| row.place).collect();
    assert!(unused.is_empty(), "rows of the table that nothing needs: {unused:#?}");
}

#[test]
fn the_documentation_has_the_table() {
    let path = root().join("docs/differences-from-the-sdk.md");
    let text = std::fs::read_to_string(&path).expect("the page is there");
    let table = table::markdown();
    assert!(text.contains(&table), "{} must contain:\n{table}", path.display());
}
