use super::*;

const NOW: u64 = 1000;
/// Between a call and what is made for it.
const DELAY: u64 = 5;

/// Events: a call (`c1`) or a work (`w11`), and when it was.
fn fill(queue: &mut Queue<UnitId>, events: &[(&str, u64)]) {
    for (event, time) in events {
        let (kind, number) = event.split_at(1);
        let number = number.parse().expect("a number");
        match kind {
            "c" => queue.comes(*time, UnitId(number)),
            _ => queue.is_made(*time, Handling::Work(number)),
        }
    }
}

/// Calls 1 to `count`, one after the other, and works for each, of which the first is its number and 10.
fn one_after_the_other(count: u64, each: u64) -> Queue<UnitId> {
    let mut queue = Queue::default();
    for call in 1..=count {
        queue.comes(call * 10, UnitId(call));
        for more in 0..each {
            queue.is_made(call * 10 + DELAY, Handling::Work(10 + call + more * 100));
        }
    }
    queue
}

fn pairs(found: &[Pair<UnitId>]) -> Vec<(u64, u64)> {
    let number = |handling: &Handling| match handling {
        Handling::Work(number) => *number,
        Handling::Task(task) => u64::from(*task),
    };
    found.iter().map(|(unit, _, handling)| (unit.0, number(handling))).collect()
}

fn answered(queue: &mut Queue<UnitId>, call: u64, work: u64) -> Vec<(u64, u64)> {
    pairs(&queue.answered(UnitId(call), Handling::Work(work), NOW))
}

/// Two answers agree on how many are made for each.
fn in_step(queue: &mut Queue<UnitId>) {
    for call in 1..=3 {
        assert_eq!(answered(queue, call, 10 + call), [(call, 10 + call)]);
    }
}

#[test]
fn those_between_two_answers_belong_together() {
    for each in [1, 2] {
        let mut queue = one_after_the_other(6, each);
        in_step(&mut queue);
        assert_eq!(answered(&mut queue, 6, 16), [(4, 14), (5, 15), (6, 16)]);
        assert!(queue.calls.is_empty());
    }
}

#[test]
fn nothing_is_said_before_two_answers_agree() {
    let mut queue = one_after_the_other(5, 1);
    assert_eq!(answered(&mut queue, 1, 11), [(1, 11)]);
    assert_eq!(answered(&mut queue, 3, 13), [(3, 13)]);
    assert_eq!(answered(&mut queue, 5, 15), [(5, 15)]);
}

#[test]
fn nothing_is_said_of_calls_that_were_open_together() {
    let mut queue = one_after_the_other(3, 1);
    in_step(&mut queue);
    // A server with a queue for each method takes the second of one method behind the first of another.
    fill(
        &mut queue,
        &[("c4", 40), ("c5", 41), ("w15", 42), ("w14", 43), ("c6", 50), ("w16", 51), ("c7", 60), ("w17", 61)],
    );
    assert_eq!(answered(&mut queue, 7, 17), [(6, 16), (7, 17)]);
}

#[test]
fn one_that_is_answered_along_with_another_changes_nothing() {
    let mut queue = one_after_the_other(6, 1);
    in_step(&mut queue);
    assert_eq!(answered(&mut queue, 6, 14), []);
    assert_eq!(answered(&mut queue, 5, 15), [(4, 14), (5, 15)]);
}

#[test]
fn calls_without_a_handling_put_nothing_in_a_wrong_place() {
    let mut queue = one_after_the_other(3, 1);
    in_step(&mut queue);
    let later = [("c4", 40), ("c5", 50), ("w15", 51), ("c6", 60), ("w16", 61), ("c7", 70), ("w17", 71)];
    fill(&mut queue, &later);
    assert!(queue.silent(NOW).is_empty(), "5 came before 15 was made");
    assert_eq!(answered(&mut queue, 6, 16), [(6, 16)]);
    assert_eq!(answered(&mut queue, 7, 17), [(7, 17)]);
}

#[test]
fn a_call_without_a_place_has_none() {
    let mut queue = one_after_the_other(3, 1);
    in_step(&mut queue);
    fill(&mut queue, &[("c4", 40), ("c5", 50), ("w15", 51), ("c6", 60), ("w16", 61)]);
    queue.has_no_place(UnitId(4));
    assert_eq!(answered(&mut queue, 6, 16), [(5, 15), (6, 16)]);
}

#[test]
fn what_came_before_they_were_known_to_be_handed_out_has_no_place() {
    let mut queue = one_after_the_other(3, 1);
    in_step(&mut queue);
    fill(&mut queue, &[("w14", 45), ("c5", 50), ("w15", 51), ("c6", 60), ("w16", 61)]);
    assert_eq!(answered(&mut queue, 4, 14), [(4, 14)]);
    assert_eq!(answered(&mut queue, 6, 16), [(5, 15), (6, 16)]);
}

#[test]
fn silent_calls_belong_to_what_is_at_their_place() {
    let mut queue = one_after_the_other(4, 1);
    assert!(queue.silent(NOW).is_empty(), "nothing has shown that they are in step");
    in_step(&mut queue);
    assert!(queue.silent(DELAY).is_empty(), "not long enough");
    assert_eq!(pairs(&queue.silent(NOW)), [(4, 14)]);
    fill(&mut queue, &[("c5", 50), ("w15", 51), ("w16", 52)]);
    assert!(queue.silent(NOW).is_empty(), "a handling of no call");
}

#[test]
fn what_comes_in_order_may_be_open_together() {
    let mut queue = Queue::in_order();
    fill(&mut queue, &[("w11", 10), ("c1", 11), ("w12", 20), ("c2", 21), ("w13", 30), ("c3", 31)]);
    in_step(&mut queue);
    fill(&mut queue, &[("w14", 40), ("w15", 41), ("c4", 42), ("w16", 43), ("c5", 44), ("c6", 45)]);
    assert_eq!(answered(&mut queue, 6, 16), [(4, 14), (5, 15), (6, 16)]);
}

#[test]
fn after_a_loss_nothing_is_known() {
    let mut queue = one_after_the_other(6, 1);
    in_step(&mut queue);
    queue.misses();
    fill(&mut queue, &[("c7", 70), ("w17", 71)]);
    assert!(queue.silent(NOW).is_empty());
    assert_eq!(answered(&mut queue, 7, 17), [(7, 17)]);
}
