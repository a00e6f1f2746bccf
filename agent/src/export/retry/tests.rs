use super::*;

#[test]
fn waits_grow_to_half_a_minute_and_begin_again_after_a_success() {
    let mut backoff = Backoff::seeded(7);
    let waits: Vec<Duration> = (0..8).map(|_| backoff.next(None)).collect();
    for (wait, whole) in waits.iter().zip([1, 2, 4, 8, 16, 30, 30, 30]) {
        let whole = Duration::from_secs(whole);
        assert!((whole / 2..=whole).contains(wait), "{waits:?}");
    }
    backoff.reset();
    assert!(backoff.next(None) <= FIRST);
}

#[test]
fn two_agents_do_not_come_back_together() {
    assert_ne!(Backoff::seeded(1).next(None), Backoff::seeded(2).next(None));
    let asked = Some(Duration::from_secs(10));
    assert_ne!(Backoff::seeded(1).next(asked), Backoff::seeded(2).next(asked));
}

#[test]
fn the_wait_asked_for_is_kept_and_bounded() {
    let mut backoff = Backoff::seeded(3);
    for seconds in [0, 1, 5, 60] {
        let asked = Duration::from_secs(seconds);
        assert!(backoff.next(Some(asked)) >= asked);
    }
    assert!(backoff.next(Some(Duration::MAX)) <= LONGEST_ASKED + FIRST);
}
