use super::*;

#[test]
fn a_monitor_line_gives_the_client_and_the_words() {
    let command = parse(br#"+1700000000.123456 [0 127.0.0.1:4000] "SET" "rid:a:\"x\"" "\x41\n\\""#).unwrap();
    assert_eq!(command.client, "127.0.0.1:4000");
    assert_eq!(command.words, ["SET", "rid:a:\"x\"", "A\n\\"]);
}

#[test]
fn a_cut_or_strange_line_gives_nothing() {
    assert_eq!(parse(b"+OK"), None);
    assert_eq!(parse(br#"+1.2 [0 127.0.0.1:4000] "SET" "ke"#), None);
    assert_eq!(parse(b""), None);
}
