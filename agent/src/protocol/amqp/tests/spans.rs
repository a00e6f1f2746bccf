//! What a span says of a message.

use super::*;
use crate::signal::{Address, Description, Status};

fn message(kind: Kind, exchange: &str, key: &str, queue: Option<&str>) -> Message {
    let mut message = Message::new(kind, 1);
    message.exchange = exchange.to_owned();
    message.routing_key = key.to_owned();
    message.queue = queue.map(str::to_owned);
    message
}

fn span(message: &Message) -> Description {
    describe(message, &Endpoints::default(), None)
}

#[track_caller]
fn has(span: &Description, key: &str, expected: impl Into<Value>) {
    assert_eq!(value(&span.attributes, key), Some(&expected.into()), "{key} of {span:?}");
}

#[track_caller]
fn lacks(span: &Description, key: &str) {
    assert_eq!(value(&span.attributes, key), None, "{key}");
}

#[test]
fn destinations_are_named_as_the_conventions_want() {
    let cases = [
        (Kind::Publish, "direct_logs", "warning", None, "direct_logs:warning"),
        (Kind::Publish, "logs", "", None, "logs"),
        (Kind::Publish, "", "jobs", None, "jobs"),
        (Kind::Publish, "", "", None, "amq.default"),
        (Kind::Delivery, "logs", "warning", Some("mine"), "logs:warning:mine"),
        (Kind::Delivery, "", "jobs", Some("jobs"), "jobs"),
        (Kind::Delivery, "logs", "jobs", Some("jobs"), "logs:jobs"),
        (Kind::Delivery, "logs", "", Some("mine"), "logs:mine"),
        (Kind::Get, "", "", Some("mine"), "mine"),
    ];
    for (kind, exchange, key, queue, expected) in cases {
        let span = span(&message(kind, exchange, key, queue));
        has(&span, "messaging.destination.name", expected.to_owned());
        let operation = match kind {
            Kind::Publish => "send",
            Kind::Delivery => "process",
            _ => "receive",
        };
        assert_eq!(span.name, format!("{operation} {expected}"));
        has(&span, "messaging.operation.name", operation);
        has(&span, "messaging.operation.type", operation);
        has(&span, "messaging.system", "rabbitmq");
    }
}

#[test]
fn generated_names_stay_out_of_the_span_name() {
    let names = [
        "amq.gen-JzTY20BRgKO-HjmUJj0wLg",
        "amq.rabbitmq.reply-to.g1h2AA",
        "985d102c-b163-30f2-893b-311ddd537676",
        "amq_0af7651916cd43dd8448eb211c80319c",
        "replies.985d102c-b163-30f2-893b-311ddd537676.v1",
    ];
    for name in names {
        let span = span(&message(Kind::Publish, "", name, None));
        assert_eq!(span.name, "send (anonymous)");
        has(&span, "messaging.destination.name", name.to_owned());
        has(&span, "messaging.destination.anonymous", true);
        has(&span, "messaging.destination.temporary", true);
    }
    for name in ["game-0af76519", "2024-11-22", "0af76519-16cd-43dd", "jobs"] {
        assert_eq!(span(&message(Kind::Publish, "", name, None)).name, format!("send {name}"));
    }
}

#[test]
fn what_is_bound_to_a_server_named_queue_names_the_span() {
    let mut delivery = message(Kind::Delivery, "games", "new", Some("amq.gen-JzTY20BRgKO-HjmUJj0wLg"));
    delivery.temporary = true;
    let span = span(&delivery);
    assert_eq!(span.name, "process games:new");
    has(&span, "messaging.destination.name", "games:new:amq.gen-JzTY20BRgKO-HjmUJj0wLg");
    has(&span, "messaging.destination.anonymous", true);
}

#[test]
fn a_temporary_queue_with_a_name_of_its_own_is_named() {
    let mut delivery = message(Kind::Delivery, "", "mine", Some("mine"));
    delivery.temporary = true;
    let span = span(&delivery);
    assert_eq!(span.name, "process mine");
    has(&span, "messaging.destination.temporary", true);
    lacks(&span, "messaging.destination.anonymous");
}

#[test]
fn who_closes_need_not_wait() {
    let mut close = message(Kind::Declare { method: "connection.close" }, "", "", None);
    close.ended = Ended::Cut;
    lacks(&span(&close), "error.type");
    assert_eq!(span(&close).status, Status::Unset);
}

#[test]
fn a_delivery_tells_its_message_and_how_it_was_settled() {
    let mut delivery = message(Kind::Delivery, "games", "new", Some("jobs"));
    delivery.delivery_tag = 7;
    delivery.redelivered = true;
    delivery.message_id = Some("m-1".to_owned());
    delivery.correlation_id = Some("c-1".to_owned());
    delivery.body_size = 12;
    delivery.task = Some(Box::new(Task { name: "shop.add".to_owned(), ..Task::default() }));
    delivery.death = Some(Box::new(Death { count: 3, ..Death::default() }));
    let endpoints = Endpoints::plain(Address::Unknown, Address::Inet("10.1.2.80:5672".parse().unwrap()));
    let span = describe(&delivery, &endpoints, Some(Outcome::Nack { requeue: true }));
    has(&span, "messaging.rabbitmq.destination.routing_key", "new");
    has(&span, "messaging.rabbitmq.message.delivery_tag", 7);
    has(&span, "messaging.message.id", "m-1");
    has(&span, "messaging.message.conversation_id", "c-1");
    has(&span, "messaging.message.body.size", 12);
    has(&span, "server.address", "10.1.2.80");
    has(&span, "server.port", 5672);
    has(&span, "network.peer.address", "10.1.2.80");
    has(&span, "network.peer.port", 5672);
    has(&span, "adder.messaging.redelivered", true);
    has(&span, "adder.messaging.outcome", "nack");
    has(&span, "adder.messaging.requeue", true);
    has(&span, "adder.messaging.death.count", 3);
    has(&span, "celery.task", "shop.add");
    lacks(&span, "error.type");
    assert_eq!(span.status, Status::Unset);
}

#[test]
fn a_publish_fails_by_nack_by_return_and_by_error() {
    let plain = message(Kind::Publish, "games", "new", None);
    assert_eq!(span(&plain).status, Status::Unset);
    let mut refused = plain.clone();
    refused.answer = Some(Answer::Nack);
    has(&span(&refused), "error.type", "nack");
    let mut returned = plain.clone();
    returned.answer = Some(Answer::Ack);
    returned.returned = Some((312, "NO_ROUTE".to_owned()));
    has(&span(&returned), "error.type", "no-route");
    let mut failed = plain.clone();
    failed.ended = Ended::Cut;
    failed.error = Some((403, "ACCESS_REFUSED - access refused for user 'bob'".to_owned()));
    has(&span(&failed), "error.type", "access-refused");
    assert_eq!(span(&failed).status, Status::Error("403 access-refused".to_owned()), "users are not named");
    failed.error = Some((799, String::new()));
    has(&span(&failed), "error.type", "799");
    failed.error = None;
    has(&span(&failed), "error.type", "connection_closed");
}

#[test]
fn what_is_not_known_is_said() {
    let mut publish = message(Kind::Publish, "games", "new", None);
    publish.ended = Ended::Unconfirmed;
    has(&span(&publish), "adder.messaging.outcome.unknown", true);
    assert_eq!(span(&publish).status, Status::Unset);
}

#[test]
fn other_operations_bear_the_name_of_their_method() {
    let declare = message(Kind::Declare { method: "queue.declare" }, "", "", Some("jobs"));
    assert_eq!(span(&declare).name, "queue.declare jobs");
    lacks(&span(&declare), "messaging.operation.type");
    lacks(&span(&declare), "messaging.message.body.size");
    assert_eq!(span(&message(Kind::Tx { method: "tx.commit" }, "", "", None)).name, "tx.commit");
}

#[test]
fn an_empty_queue_is_no_error() {
    let mut get = message(Kind::Get, "", "", Some("jobs"));
    get.answer = Some(Answer::Empty);
    has(&span(&get), "adder.messaging.empty", true);
    lacks(&span(&get), "messaging.message.body.size");
    assert_eq!(span(&get).status, Status::Unset);
}
