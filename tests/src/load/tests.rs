use super::*;

#[test]
fn percentiles_are_elements_of_the_list() {
    let sorted: Vec<u32> = (1..=100).collect();
    assert_eq!(percentile(&sorted, 0.5), Some(50));
    assert_eq!(percentile(&sorted, 0.99), Some(99));
    assert_eq!(percentile(&sorted, 1.0), Some(100));
    assert_eq!(percentile(&sorted, 0.0), Some(1));
    assert_eq!(percentile::<u32>(&[], 0.5), None);
}

#[test]
fn two_loads_share_no_ids() {
    let (one, other) = (rid_prefix(), rid_prefix());
    assert!(!one.starts_with(&other) && !other.starts_with(&one));
}
