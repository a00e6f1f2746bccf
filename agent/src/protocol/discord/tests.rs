use super::*;

fn gateway() -> Gateway {
    Gateway::of("encoding=json&v=10").expect("a gateway")
}

fn interaction(body: &str) -> Dispatch {
    let content = format!(
        r#"{{"t":"INTERACTION_CREATE","s":3,"op":0,"d":{{"version":1,"token":"tok-SECRET","id":"1100","guild_id":"7",
        "channel_id":"8","member":{{"user":{{"id":"9","username":"name-SECRET"}},"roles":[]}},{body}}}}}"#
    );
    gateway().read(content.as_bytes()).expect("an interaction")
}

#[test]
fn only_a_gateways_query_makes_one() {
    assert!(
        Gateway::of("encoding=json&v=10&compress=zlib-stream").is_some_and(|found| found.is_compressed())
    );
    assert!(Gateway::of("v=9&encoding=json").is_some_and(|found| !found.is_compressed()));
    for other in ["", "v=10", "encoding=json", "v=x&encoding=json", "v=10&encoding=xml"] {
        assert!(Gateway::of(other).is_none(), "{other}");
    }
}

#[test]
fn each_kind_of_interaction_is_named() {
    let secret = r#"{"name":"query","type":3,"value":"value-SECRET"}"#;
    for (body, name) in [
        (format!(r#""type":2,"data":{{"id":"1","name":"list-games","type":1,"options":[{secret}]}}"#), "discord /list-games"),
        (
            format!(
                r#""type":2,"data":{{"name":"game","type":1,"options":[{{"name":"admin","type":2,"options":[{{"name":"create","type":1,"options":[{secret}]}}]}}]}}"#
            ),
            "discord /game admin create",
        ),
        (r#""type":2,"data":{"name":"Report","type":2,"target_id":"5"}"#.into(), "discord user command Report"),
        (r#""type":2,"data":{"name":"Quote","type":3}"#.into(), "discord message command Quote"),
        (format!(r#""type":4,"data":{{"name":"list-games","options":[{secret}]}}"#), "discord autocomplete /list-games"),
        (r#""type":3,"data":{"custom_id":"join_game:value-SECRET","component_type":2}"#.into(), "discord button join_game"),
        (
            r#""type":3,"data":{"custom_id":"0123456789abcdef0123456789abcdef","component_type":3,"values":["value-SECRET"]}"#.into(),
            "discord select",
        ),
        (r#""type":5,"data":{"custom_id":"edit_game:1","components":[{"value":"value-SECRET"}]}"#.into(), "discord modal edit_game"),
    ] {
        let dispatch = interaction(&body);
        assert_eq!(dispatch.interaction.as_ref().map(|found| found.id), Some(1100));
        let (guild, channel, user) = (dispatch.guild.as_deref(), dispatch.channel.as_deref(), dispatch.user.as_deref());
        assert_eq!((guild, channel, user), (Some("7"), Some("8"), Some("9")));
        let description = describe(&dispatch, &crate::signal::Endpoints::default());
        assert_eq!(description.name, name);
        assert!(!format!("{dispatch:?} {description:?}").contains("SECRET"), "{dispatch:?}");
    }
}

#[test]
fn other_payloads_start_nothing() {
    for content in [
        r#"{"op":10,"d":{"heartbeat_interval":41250},"s":null,"t":null}"#,
        r#"{"op":11}"#,
        r#"{"op":7,"d":null}"#,
        r#"{"op":9,"d":false}"#,
        r#"{"op":0,"t":"INTERACTION_CREATE","d":{"id":"1","type":1}}"#,
        r#"{"op":0,"t":"INTERACTION_CREATE","d":{"id":"x","type":2}}"#,
        "[]",
        "",
        "\u{78}\u{7f}",
    ] {
        assert_eq!(gateway().read(content.as_bytes()), None, "{content}");
    }
}

#[test]
fn other_events_have_their_ids_where_these_are_ids() {
    let mut gateway = gateway();
    let ready = r#"{"op":0,"t":"READY","d":{"session_id":"s","shard":[3,16],"user":{"id":"1"}}}"#;
    assert_eq!(gateway.read(ready.as_bytes()).and_then(|found| found.shard), Some(3));
    let message = r#"{"op":0,"t":"MESSAGE_CREATE","d":{"content":"x-SECRET","author":{"id":"5"},"channel_id":"8","guild_id":"7"}}"#;
    let found = gateway.read(message.as_bytes()).expect("an event");
    assert_eq!(
        (found.user.as_deref(), found.channel.as_deref(), found.shard),
        (Some("5"), Some("8"), Some(3))
    );
    assert!(!format!("{found:?}").contains("SECRET"));
    let odd = r#"{"op":0,"t":"ODD","d":{"guild_id":7,"author":"me"}}"#;
    assert_eq!(gateway.read(odd.as_bytes()).expect("an event").guild, None);
}
