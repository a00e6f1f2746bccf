use super::*;

const NOW: u64 = 100;

/// Calls, and as many works as there are for each of them.
fn queue(calls: &[u64], works: &[u64]) -> Queue<UnitId> {
    let mut queue = Queue::default();
    for id in calls {
        queue.comes(UnitId(*id));
    }
    for number in works {
        queue.is_made(10, Handling::Work(*number));
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
fn in_step(queue: &mut Queue<UnitId>, each: u64) {
    for call in 1..=3 {
        assert_eq!(answered(queue, call, 10 + call * each), [(call, 10 + call * each)]);
    }
    assert!(queue.in_step);
}

#[test]
fn those_between_two_answers_belong_together() {
    let mut queue = queue(&[1, 2, 3, 4, 5, 6], &[11, 12, 13, 14, 15, 16]);
    in_step(&mut queue, 1);
    assert_eq!(answered(&mut queue, 6, 16), [(4, 14), (5, 15), (6, 16)]);
    assert!(queue.calls.is_empty() && queue.handlings.is_empty());
}

#[test]
fn those_between_two_answers_belong_together_where_more_are_made_for_each() {
    let mut queue = queue(&[1, 2, 3, 4, 5], &[12, 13, 14, 15, 16, 17, 18, 19, 20, 21]);
    in_step(&mut queue, 2);
    assert_eq!(answered(&mut queue, 5, 20), [(4, 18), (5, 20)]);
}

#[test]
fn nothing_is_said_before_two_answers_agree() {
    let mut queue = queue(&[1, 2, 3, 4, 5], &[11, 12, 13, 14, 15]);
    assert_eq!(answered(&mut queue, 1, 11), [(1, 11)]);
    assert_eq!(answered(&mut queue, 3, 13), [(3, 13)]);
    assert_eq!(answered(&mut queue, 5, 15), [(5, 15)]);
}

#[test]
fn one_that_is_answered_along_with_another_changes_nothing() {
    let mut queue = queue(&[1, 2, 3, 4, 5, 6], &[11, 12, 13, 14, 15, 16]);
    in_step(&mut queue, 1);
    assert_eq!(answered(&mut queue, 6, 14), []);
    assert_eq!(answered(&mut queue, 5, 15), [(4, 14), (5, 15)]);
}

#[test]
fn calls_without_a_handling_put_nothing_in_a_wrong_place() {
    let mut queue = queue(&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[11, 12, 13, 15, 16, 17, 18, 19]);
    in_step(&mut queue, 1);
    assert_eq!(answered(&mut queue, 6, 16), []);
    assert_eq!(answered(&mut queue, 7, 17), [(7, 17)]);
    assert_eq!(answered(&mut queue, 9, 19), [(9, 19)]);
}

#[test]
fn a_refused_call_has_no_place() {
    let mut queue = queue(&[1, 2, 3, 4, 5, 6], &[11, 12, 13, 15, 16]);
    in_step(&mut queue, 1);
    queue.is_refused(UnitId(4));
    assert_eq!(answered(&mut queue, 6, 16), [(5, 15), (6, 16)]);
}

#[test]
fn what_came_before_they_were_known_to_be_handed_out_has_no_place() {
    let mut queue = queue(&[1, 2, 3, 5, 6], &[11, 12, 13, 14, 15, 16]);
    in_step(&mut queue, 1);
    assert_eq!(answered(&mut queue, 4, 14), [(4, 14)]);
    assert_eq!(answered(&mut queue, 6, 16), [(5, 15), (6, 16)]);
}

#[test]
fn silent_calls_belong_to_what_is_at_their_place() {
    let mut queue = queue(&[1, 2, 3, 4], &[11, 12, 13, 14]);
    assert!(queue.silent(NOW).is_empty(), "nothing has shown that they are in step");
    in_step(&mut queue, 1);
    assert!(queue.silent(5).is_empty(), "not long enough");
    assert_eq!(pairs(&queue.silent(NOW)), [(4, 14)]);
    queue.comes(UnitId(5));
    queue.is_made(10, Handling::Work(15));
    queue.is_made(10, Handling::Work(16));
    assert!(queue.silent(NOW).is_empty(), "a handling of no call");
}
