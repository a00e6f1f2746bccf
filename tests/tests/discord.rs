//! A discord.py bot against a gateway and REST server on loopback: each interaction a root span with all that was done
//! for it below, and no secret in anything that leaves.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use adder_tests::{
    collector::{CollectedSpan, Collector},
    judge::find_rid,
    python::App,
    rig::Rig,
    stack::packages,
    wait_until,
    watch::attach,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// Interactions, and how many of them happen at a time.
const COUNT: usize = 204;
const PARALLEL: usize = 32;
/// Planted in tokens, texts, option values and the bot's login; `-SECRET` ends all of them.
const SECRET: &str = "-SECRET";
const BOT_TOKEN: &str = "bot.token.login-SECRET";

struct Case<'a> {
    name: &'a str,
    python: &'a str,
    event_loop: &'a str,
    compress: &'a str,
    /// The bot has connected before the agent came.
    older: bool,
    /// The environment that has another discord.py, and how its version begins.
    library: Option<(&'a str, &'a str)>,
    /// What it asks the gateway for.
    encoding: &'a str,
}

const BOT: Case<'_> = Case {
    name: "",
    python: "3.11",
    event_loop: "asyncio",
    compress: "zlib",
    older: false,
    library: None,
    encoding: "json",
};

/// What the server was told of an interaction.
struct Told {
    kind: String,
    rid: String,
}

/// What came of interactions.
struct Watched {
    spans: Vec<CollectedSpan>,
    told: BTreeMap<String, Told>,
    /// What the agent has said.
    lines: Vec<String>,
}

fn run(case: &Case<'_>) {
    let Watched { spans, told, .. } = watch(case);
    expect_interactions(&spans, &told, case);
    let exported = format!("{spans:?}");
    assert!(!exported.contains(SECRET), "a secret has left: {:?}", around(&exported, SECRET));
}

fn watch(case: &Case<'_>) -> Watched {
    let servers = Rig::start_encrypted(case.name, "bot", case.python, true).expect("servers");
    let discord = App::discord(&servers.venv, &servers.dir, &servers.environment).expect("Discord's server");
    let environment = servers
        .environment
        .clone()
        .set("BOT_TOKEN", BOT_TOKEN)
        .set("EVENT_LOOP", case.event_loop)
        .set("COMPRESS", case.compress)
        .set("ENCODING", case.encoding);
    let collector = Collector::start().expect("a collector");
    let gate = servers.dir.join("gate");
    let environment = match case.library {
        Some((library, _)) => environment.set("PYTHONPATH", &packages(library).expect("its packages")),
        None => environment,
    };
    let environment = environment.set("WAIT_FOR", &gate.display().to_string());
    let bot = App::worker(&servers.venv, &servers.dir, "bot.py", &[&discord.url("")], &environment);
    let bot = bot.expect("the bot's process starts");
    let is_ready = || discord.get("/health").is_ok_and(|(_, body)| body.contains("true"));
    let open = || fs::write(&gate, "").expect("the gate opens");
    if case.older {
        open();
        assert!(wait_until(Duration::from_secs(30), is_ready), "{}", bot.process().log_tail());
    }
    let (agent, recorder) = attach(&servers.dir, &[bot.pid()], &collector).expect("the agent starts");
    open();
    let fire_some = || {
        let (status, _) = discord.get("/fire?count=12&parallel=1&rid=warm").expect("interactions one by one");
        assert_eq!(status, 200);
    };
    fire_some();
    if case.older {
        // The first shows that there is a gateway (on uvloop, when its socket was not found for a while); when it is seen what
        // `inflate` is given, one more is needed.
        for _ in 0..2 {
            thread::sleep(Duration::from_secs(1));
            fire_some();
        }
    }
    let path = format!("/fire?count={COUNT}&parallel={PARALLEL}&rid=r1234x0");
    let (status, told) = discord.get(&path).expect("interactions");
    assert_eq!(status, 200, "{told}");
    thread::sleep(Duration::from_secs(6));
    let (status, lines) = agent.stop().expect("the agent ends");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recorder ends");
    }
    assert!(status.success(), "{lines:#?}");
    println!("{}", lines.join("\n"));

    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let told = told.as_object().expect("an object").iter().map(|(id, told)| {
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        (id.clone(), Told { kind: text("kind"), rid: text("rid") })
    });
    let told: BTreeMap<String, Told> = told.filter(|(_, told)| told.rid.starts_with("r1234x0")).collect();
    assert_eq!(told.len(), COUNT);
    let log = fs::read_to_string(bot.process().log()).unwrap_or_default();
    assert!(!log.contains("Traceback"), "the bot has failed: {log}");
    let version = case.library.map_or("2.", |(_, version)| version);
    assert!(log.contains(&format!("by discord.py {version}")), "not by that discord.py: {log}");
    drop((bot, discord));
    drop(servers);
    Watched { spans: collector.spans(), told, lines }
}

fn around<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let at = text.find(what)?;
    text.get(at.saturating_sub(200)..(at + 50).min(text.len()))
}

fn expect_interactions(spans: &[CollectedSpan], told: &BTreeMap<String, Told>, case: &Case<'_>) {
    let by_id: BTreeMap<&[u8], &CollectedSpan> =
        spans.iter().map(|span| (span.span.span_id.as_slice(), span)).collect();
    let interactions: BTreeMap<String, &CollectedSpan> =
        spans.iter().filter_map(|span| Some((span.attribute("discord.interaction.id")?, span))).collect();
    let of_load = || interactions.iter().filter(|(id, _)| told.contains_key(*id));
    assert_eq!(of_load().count(), told.len(), "each interaction is a span");
    for (id, span) in of_load() {
        let kind = told[id].kind.as_str();
        let (name, kind, key) = match kind {
            "command" => ("discord /list-games", "application_command", "discord.command.name"),
            "sub-command" => ("discord /game create", "application_command", "discord.command.name"),
            "autocomplete" => (
                "discord autocomplete /list-games",
                "application_command_autocomplete",
                "discord.command.name",
            ),
            "button" => ("discord button join_game", "message_component", "discord.component.name"),
            "select" => ("discord select choose_game", "message_component", "discord.component.name"),
            _ => ("discord modal edit_game", "modal_submit", "discord.component.name"),
        };
        assert_eq!(span.span.name, name);
        assert_eq!(span.span.kind(), SpanKind::Consumer);
        assert!(span.span.parent_span_id.is_empty(), "a root");
        let shown = name.rsplit(['/']).next().unwrap_or_default();
        let shown = shown.rsplit(' ').next().unwrap_or_default();
        let has = |key: &str| span.attribute(key).unwrap_or_default();
        assert_eq!(has("discord.event"), "INTERACTION_CREATE");
        assert_eq!(has("discord.interaction.type"), kind);
        assert!(has(key).ends_with(shown), "{key}: {}", has(key));
        assert_eq!(has("discord.guild.id"), "700000000000000001");
        assert_eq!(has("discord.channel.id"), "700000000000000002");
        assert_eq!(has("discord.user.id"), "800000000000000003");
        // These are said once, when the connection begins. Which socket an older one has shows on uvloop only when it sends something.
        let (address, version, shard) = match (case.older, case.event_loop) {
            (false, _) => ("localhost", "1.3", "0"),
            (true, "uvloop") => ("", "", ""),
            (true, _) => ("127.0.0.1", "", ""),
        };
        assert_eq!(has("server.address"), address);
        assert_eq!(has("tls.protocol.version"), version);
        assert_eq!(has("discord.shard.id"), shard);
    }
    // What was done for an interaction bears its id; requests to Discord bear the interaction's own.
    let mut counts = BTreeMap::<&str, [usize; 3]>::new();
    let mut wrong = Vec::new();
    for span in spans {
        let shown = ["db.query.text", "messaging.rabbitmq.destination.routing_key"];
        let rid = shown.iter().find_map(|key| find_rid(&span.attribute(key)?).map(str::to_owned));
        let url = span.attribute("url.full").unwrap_or_default();
        let (what, wanted) = if let Some(rid) = &rid {
            (
                "statements, commands, publishes",
                told.iter().find(|(_, told)| told.rid == *rid).map(|(id, _)| id),
            )
        } else if let Some(rest) = url.split("/interactions/").nth(1) {
            ("callbacks", told.get_key_value(rest.split('/').next().unwrap_or_default()).map(|(id, _)| id))
        } else {
            continue;
        };
        let Some(wanted) = wanted else { continue };
        let parent = by_id.get(span.span.parent_span_id.as_slice());
        let found = parent.and_then(|parent| parent.attribute("discord.interaction.id"));
        let count = counts.entry(what).or_default();
        match found {
            None => count[2] += 1,
            Some(found) if found == *wanted => count[0] += 1,
            Some(found) => {
                count[1] += 1;
                wrong.push(format!("{} of {wanted} under {found}", span.span.name));
            }
        }
    }
    for (what, [right, wrong, orphan]) in &counts {
        println!("{what}: {right} right, {wrong} wrong, {orphan} without");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let total = counts.values().map(|count| count[0]).sum::<usize>();
    // Five sixths do two statements, a command, a publish and a callback, the others a statement and a callback.
    assert_eq!(total, told.len() / 6 * (5 * 5 + 2), "{counts:?}");
    let follow_ups = spans.iter().filter(|span| {
        let below = by_id.get(span.span.parent_span_id.as_slice());
        let below = below.and_then(|parent| parent.attribute("discord.interaction.id"));
        span.span.name == "POST /webhooks/{webhook.id}/{webhook.token}"
            && below.is_some_and(|id| told.contains_key(&id))
    });
    assert_eq!(follow_ups.count(), told.len() / 6 * 5, "follow-ups are below their interaction");
}

#[test]
fn interactions_of_a_bot_on_asyncio_by_zlib() {
    run(&Case { name: "discord-asyncio", python: "3.13", ..BOT });
}

/// The oldest discord.py that is in use.
#[test]
fn interactions_of_a_bot_by_discord_py_2_3() {
    run(&Case { name: "discord-2.3", library: Some(("discord23", "2.3.")), ..BOT });
}

/// Its gateway's stream can be read once zlib has shown what that refers back to.
#[test]
fn interactions_of_bots_that_have_connected_before() {
    let case = Case { name: "discord-older", python: "3.13", older: true, ..BOT };
    run(&case);
    run(&Case { name: "discord-older-uvloop", python: "3.11", event_loop: "uvloop", ..case });
}

/// What zstd has kept is not known.
#[test]
fn of_a_bot_that_has_connected_before_by_zstd_it_is_said_that_it_cannot_be_read() {
    let case = Case { name: "discord-older-zstd", python: "3.13", compress: "zstd", older: true, ..BOT };
    cannot_be_read(&case, "is read from its next reconnect on");
}

/// Its gateway sends JSON all the same: what it has asked for counts.
#[test]
fn of_a_bot_that_wants_erlangs_terms_it_is_said_that_they_are_not_read() {
    cannot_be_read(
        &Case { name: "discord-etf", encoding: "etf", ..BOT },
        "until it asks for `encoding=json`",
    );
}

fn cannot_be_read(case: &Case<'_>, said: &str) {
    let Watched { spans, lines, .. } = watch(case);
    assert_eq!(lines.iter().filter(|line| line.contains(said)).count(), 1, "{lines:#?}");
    assert!(spans.iter().all(|span| span.attribute("discord.interaction.id").is_none()));
}

#[test]
fn interactions_of_a_bot_on_uvloop_by_zstd() {
    run(&Case { name: "discord-uvloop", event_loop: "uvloop", compress: "zstd", ..BOT });
}
