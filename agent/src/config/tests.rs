use std::time::Duration;

use super::*;
use crate::{
    export::{Compression, Limits, Protocol},
    signal::Severity,
};

/// Settings from this file and these variables.
fn load(text: &str, env: &[(&str, &str)]) -> Result<(Config, Vec<String>), ConfigError> {
    Config::load(Some(("adder.toml", text)), |name| {
        env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
}

/// Settings from these variables alone, with their warnings.
fn env(env: &[(&str, &str)]) -> (Config, Vec<String>) {
    load("", env).unwrap()
}

fn error(text: &str) -> String {
    load(text, &[]).unwrap_err().to_string()
}

fn otlp(variables: &[(&str, &str)]) -> Settings {
    let (config, warnings) = env(variables);
    assert_eq!(warnings, [""; 0]);
    config.otlp.unwrap()
}

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
const SHIPPED: &str = include_str!("../../../deploy/adder.toml");

#[test]
fn without_a_file_and_variables_all_is_default() {
    let (config, warnings) = Config::load(None, |_| None).unwrap();
    assert_eq!(
        config.capture,
        Capture { sql: TextMode::Sanitized, redis: TextMode::Sanitized, max_bytes: 16384 }
    );
    assert_eq!(config.otlp, None);
    assert_eq!(config.log.level, "info");
    assert_eq!(config.status.socket, PathBuf::from("/run/adder/status.sock"));
    assert!(!config.disabled && config.resource.is_empty() && warnings.is_empty());
}

#[test]
fn the_shipped_file_says_the_defaults() {
    assert_eq!(load(SHIPPED, &[]).unwrap(), Config::load(None, |_| None).unwrap());
}

#[test]
fn the_shipped_file_names_every_key_and_its_commented_keys_work() {
    let lines = SHIPPED.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let (config, warnings) = load(&text, &[]).unwrap();
    assert_eq!(warnings, [""; 0]);
    let settings = config.otlp.unwrap();
    assert_eq!(settings.endpoint.as_str(), "http://localhost:4318/v1/traces");
    assert!(settings.certificates.client.is_some());
    assert_eq!(config.service.names["shop.main"], "shop");
    for (section, keys) in file::KEYS {
        for key in keys {
            assert!(text.contains(&format!("\n{key} = ")), "{section}.{key}");
        }
    }
}

#[test]
fn everything_in_the_file_is_read() {
    let text = r#"
        [capture]
        sql = "raw"
        redis = "off"
        max_bytes = 4_096
        [otlp]
        endpoint = "https://collector.example:4317"
        protocol = "grpc"
        headers = { "x-token" = "secret" }
        timeout = 2500
        compression = "gzip"
        certificate = "/etc/adder/ca.pem"
        [http]
        routes = ["/games/{game_id}", "/files/{name}.json"]
        [messaging]
        declarations = true
        link_after = 60
        [jobs]
        idle = true
        [logs]
        exclude = ["chatty"]
        level = "warning"
        max_bytes = 4096
        per_second = 50
        redact = ['card \d+']
        redact_email = true
        [discover]
        exec = ["/srv/*/python*"]
        pids = [42]
        [service.names]
        "shop.main" = "shop"
        [log]
        level = "info,adder::export=debug"
        [status]
        socket = "/tmp/adder.sock"
    "#;
    let (config, warnings) = load(text, &[]).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(config.capture, Capture { sql: TextMode::Raw, redis: TextMode::Off, max_bytes: 4096 });
    let settings = config.otlp.unwrap();
    assert_eq!(settings.shown_endpoint(), "https://collector.example:4317");
    assert_eq!((settings.protocol, settings.compression), (Protocol::Grpc, Compression::Gzip));
    assert_eq!(settings.headers, [("x-token".to_owned(), "secret".to_owned())]);
    assert_eq!(settings.headers_source, "adder.toml:9 (otlp.headers)");
    assert_eq!(settings.timeout, Duration::from_millis(2500));
    assert_eq!(settings.certificates.authority, Some("/etc/adder/ca.pem".into()));
    assert_eq!(config.http.routes, ["/games/{game_id}", "/files/{name}.json"]);
    assert_eq!((config.messaging.declarations, config.messaging.link_after), (true, Duration::from_mins(1)));
    assert!(config.jobs.idle);
    assert!(config.logs.enabled && config.logs.exclude == ["chatty"]);
    let options = logs::Options {
        level: Severity::WARN,
        max_bytes: 4096,
        per_second: 50,
        redact: vec![r"card \d+".to_owned()],
        redact_email: true,
    };
    assert_eq!(config.logs.options, options);
    assert_eq!((config.discover.exec, config.discover.pids), (vec!["/srv/*/python*".to_owned()], vec![42]));
    assert_eq!(config.service.names["shop.main"], "shop");
    assert_eq!(config.log.level, "info,adder::export=debug");
    assert_eq!(config.status.socket, PathBuf::from("/tmp/adder.sock"));
}

#[test]
fn mistakes_in_the_file_are_one_line_with_its_place() {
    let cases = [
        ("[capture]\nsqll = \"raw\"", "adder.toml:2: unknown key \"capture.sqll\", did you mean \"sql\"?"),
        ("[captur]\nsql = \"raw\"", "adder.toml:1: unknown section \"captur\", did you mean [capture]?"),
        ("\nmax_bytes = 1", "adder.toml:2: unknown section \"max_bytes\", it belongs below [capture]"),
        (
            "[capture]\nendpoint = \"x\"",
            "adder.toml:2: unknown key \"capture.endpoint\", it belongs below [otlp]",
        ),
        ("[log]\ncolour = true", "adder.toml:2: unknown key \"log.colour\"; [log] has level"),
        ("capture = 1", "adder.toml:1: capture is a whole number, not a table"),
        (
            "[capture]\n\nsql = \"all\"",
            "adder.toml:3: capture.sql: \"all\" is not one of \"sanitized\", \"raw\", \"off\"",
        ),
        (
            "[capture]\nmax_bytes = \"big\"",
            "adder.toml:2: capture.max_bytes is a string, not a whole number from 256 to 16384",
        ),
        (
            "[capture]\nmax_bytes = 7",
            "adder.toml:2: capture.max_bytes is 7, not a whole number from 256 to 16384",
        ),
        (
            "[http]\nroutes = [\n  \"/a\",\n  \"b\"]",
            "adder.toml:4: http.routes: \"b\" does not start with \"/\"",
        ),
        (
            "[http]\nroutes = [\"/a/{b\"]",
            "adder.toml:2: http.routes: \"/a/{b\" is not a template such as \"/games/{game_id}\"",
        ),
        (
            "[discover]\npids = [1, 0]",
            "adder.toml:2: discover.pids is 0, not a whole number from 1 to 4194304",
        ),
        ("[service]\nnames = { a = 1 }", "adder.toml:2: service.names.\"a\" is a whole number, not a string"),
        (
            "[log]\nlevel = \"inof\"",
            "adder.toml:2: log.level: \"inof\" is not one of off, error, warn, info, debug, trace or TARGET=LEVEL",
        ),
        (
            "[logs]\nlevel = \"loud\"",
            "adder.toml:2: logs.level: \"loud\" is not one of \"trace\", \"debug\", \"info\", \"warning\", \
             \"error\", \"critical\"",
        ),
        (
            "[logs]\nredact = [\"(\"]",
            "adder.toml:2: logs.redact: \"(\" is not a regular expression: unclosed group",
        ),
        ("[status]\nsocket = \"here\"", "adder.toml:2: status.socket is not an absolute path"),
        (
            "[otlp]\nendpoint = \"collector:4318\"",
            "adder.toml:2: otlp.endpoint: \"collector:4318\" does not start with http:// or https://",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(text), expected);
    }
    for text in ["[capture", "[a]\n[a]", "x = ", "[log]\nlevel = \"a\nb\"", "\u{0}"] {
        let message = error(text);
        assert!(message.starts_with("adder.toml:") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = r#"
        [capture]
        sql = "raw"
        [otlp]
        endpoint = "http://file:4318"
        headers = { a = "file" }
        timeout = 1
        compression = "gzip"
        [log]
        level = "warn"
    "#;
    let variables = [
        ("ADDER_SQL_TEXT", "off"),
        ("ADDER_REDIS_TEXT", "raw"),
        ("ADDER_LOG", "debug"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "b=env"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
    ];
    let (config, _) = load(text, &variables).unwrap();
    assert_eq!((config.capture.sql, config.capture.redis), (TextMode::Off, TextMode::Raw));
    assert_eq!(config.log.level, "debug");
    let settings = config.otlp.unwrap();
    assert_eq!(settings.endpoint.as_str(), "http://env:4318/v1/traces");
    assert_eq!(settings.headers, [("b".to_owned(), "env".to_owned())]);
    assert_eq!((settings.timeout, settings.compression), (Duration::from_secs(2), Compression::None));
}

#[test]
fn variables_for_traces_win_over_those_for_all_signals() {
    let settings = otlp(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/custom?a=b"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=all"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=traces"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/ca.pem"),
    ]);
    assert_eq!(settings.endpoint.as_str(), "http://traces:4318/custom?a=b");
    assert_eq!(settings.headers, [("a".to_owned(), "traces".to_owned())]);
    assert_eq!(settings.headers_source, "OTEL_EXPORTER_OTLP_TRACES_HEADERS");
    assert_eq!((settings.timeout, settings.compression), (Duration::from_millis(2), Compression::Gzip));
    assert_eq!(settings.certificates.authority, Some("/ca.pem".into()));
}

#[test]
fn the_path_of_traces_is_appended_to_a_base_endpoint() {
    for (base, expected) in [
        ("http://a:1", "http://a:1/v1/traces"),
        ("http://a:1/", "http://a:1/v1/traces"),
        ("https://a/otlp/", "https://a/otlp/v1/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ] {
        assert_eq!(otlp(&[("OTEL_EXPORTER_OTLP_ENDPOINT", base)]).endpoint.as_str(), expected);
    }
}

#[test]
fn a_grpc_endpoint_may_lack_a_scheme() {
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let bare = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
    assert_eq!(otlp(&[grpc, bare]).shown_endpoint(), "https://collector:4317");
    let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
    assert_eq!(otlp(&[grpc, bare, insecure]).shown_endpoint(), "http://collector:4317");
    let url = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    assert_eq!(otlp(&[grpc, url]).shown_endpoint(), "http://collector:4317");
}

#[test]
fn an_endpoint_that_is_no_url_is_an_error_without_its_password() {
    for wrong in ["localhost:4318", "http://", "ftp://a", "//a", "http://a:99999"] {
        let error = load("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", wrong)]).unwrap_err();
        assert_eq!(error.place, "OTEL_EXPORTER_OTLP_ENDPOINT");
    }
    let error = load("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "user:hush@host")]).unwrap_err().to_string();
    assert!(!error.contains("hush"), "{error}");
}

#[test]
fn likely_mistakes_with_endpoints_are_warned_of() {
    for (variables, expected) in [
        (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317")], "4317 is the port of gRPC"),
        (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318/v1/traces")], "/v1/traces/v1/traces"),
        (vec![("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a:4318")], "usual is /v1/traces"),
        (vec![ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "4318 is the port of http/protobuf"),
    ] {
        let (_, warnings) = env(&variables);
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{warnings:?}");
    }
}

#[test]
fn wrong_standard_variables_are_warned_of_and_count_as_not_set() {
    let (config, warnings) = env(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "77"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "good=1,,bad,also bad=2"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c"),
    ]);
    let settings = config.otlp.unwrap();
    assert_eq!(settings.protocol, Protocol::HttpProtobuf);
    assert_eq!(settings.timeout, Duration::from_millis(77));
    assert_eq!(settings.headers, [("good".to_owned(), "1".to_owned())]);
    assert!(!config.disabled && config.resource.is_empty());
    assert_eq!(
        warnings,
        [
            "OTEL_SDK_DISABLED: \"yes\" is not one of \"true\", \"false\"; ignored",
            "OTEL_RESOURCE_ATTRIBUTES: \"c\" is not KEY=VALUE with percent-encoding; ignored",
            "OTEL_EXPORTER_OTLP_PROTOCOL: \"http/json\" is not one of \"grpc\", \"http/protobuf\"; ignored",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT: \"10s\" is not a whole number from 1 to 2147483647; ignored",
            "OTEL_EXPORTER_OTLP_COMPRESSION: \"zstd\" is not one of \"gzip\", \"none\"; ignored",
            "OTEL_EXPORTER_OTLP_HEADERS: entry 3 is not KEY=VALUE; ignored",
            "OTEL_EXPORTER_OTLP_HEADERS: entry 4 is not KEY=VALUE; ignored",
            "OTEL_BSP_MAX_QUEUE_SIZE: \"0\" is not a whole number from 1 to 2147483647; ignored",
        ]
    );
}

#[test]
fn wrong_variables_of_our_own_are_errors() {
    let error = load("", &[("ADDER_SQL_TEXT", "all")]).unwrap_err().to_string();
    assert_eq!(error, "ADDER_SQL_TEXT: \"all\" is not one of \"sanitized\", \"raw\", \"off\"");
    assert!(load("", &[("ADDER_LOG", "verbose")]).is_err());
}

#[test]
fn empty_variables_count_as_not_set() {
    let (config, warnings) = env(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", " "),
        ("ADDER_SQL_TEXT", ""),
        ("OTEL_SDK_DISABLED", ""),
    ]);
    assert_eq!((config.otlp, warnings), (None, vec![]));
}

#[test]
fn resource_attributes_and_headers_are_percent_decoded() {
    let (config, _) = env(&[
        ENDPOINT,
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=a%2Cb, team = gr%C3%BCn ,"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20a=b==, x=100%"),
        ("OTEL_SDK_DISABLED", "True"),
    ]);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(config.resource, [pair("deployment.environment.name", "a,b"), pair("team", "grün")]);
    assert_eq!(config.otlp.unwrap().headers, [pair("authorization", "Bearer a=b=="), pair("x", "100%")]);
    assert!(config.disabled);
    for broken in ["a=%4", "a=%zz", "a=%ff", "=b"] {
        assert_eq!(env(&[("OTEL_RESOURCE_ATTRIBUTES", broken)]).0.resource, []);
    }
}

#[test]
fn batches_follow_the_standard_variables() {
    let limits = otlp(&[
        ENDPOINT,
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "200"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "50"),
    ])
    .limits;
    let expected =
        Limits { max_items: 200, batch_items: 50, delay: Duration::from_millis(100), ..Limits::default() };
    assert_eq!(limits, expected);
    let (config, warnings) =
        env(&[ENDPOINT, ("OTEL_BSP_MAX_QUEUE_SIZE", "20"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "50")]);
    assert_eq!(config.otlp.unwrap().limits.batch_items, 20);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn logs_and_metrics_have_variables_of_their_own() {
    let url = |settings: Option<Settings>| settings.map(|settings| settings.endpoint.to_string());
    let (config, _) = env(&[ENDPOINT, ("OTEL_BLRP_MAX_QUEUE_SIZE", "700")]);
    assert_eq!(url(config.otlp).as_deref(), Some("http://localhost:4318/v1/traces"));
    assert_eq!(config.otlp_logs.as_ref().unwrap().limits.max_items, 700);
    assert_eq!(url(config.otlp_logs).as_deref(), Some("http://localhost:4318/v1/logs"));
    // An endpoint for traces says nothing of logs.
    let (config, _) = env(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a/spans")]);
    assert_eq!((url(config.otlp).as_deref(), url(config.otlp_logs)), (Some("http://a/spans"), None));
    let (config, _) = env(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://b/records"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=b"),
        ("OTEL_LOGS_EXPORTER", "none"),
    ]);
    assert!(config.otlp_logs.is_none() && !config.logs.enabled);
    let (config, _) = load(
        "[logs]\nenabled = false",
        &[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://b/records"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=b"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
        ],
    )
    .unwrap();
    assert_eq!(config.otlp_logs.as_ref().unwrap().headers.len(), 1);
    assert_eq!(url(config.otlp_logs).as_deref(), Some("http://b/records"));
    assert!(config.otlp.unwrap().headers.is_empty() && config.logs.enabled);
    let (config, _) = env(&[
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://b/values"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1500"),
    ]);
    assert_eq!(url(config.otlp_metrics).as_deref(), Some("http://b/values"));
    assert_eq!(config.metrics.interval, Duration::from_millis(1500));
    let (config, _) = env(&[ENDPOINT, ("OTEL_METRICS_EXPORTER", "none")]);
    assert!(config.otlp_metrics.is_none() && config.otlp_logs.is_some());
    // What all complain of is said once.
    let (_, warnings) = env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")]);
    assert_eq!(warnings.len(), 1);
}
