//! Which pool and which address.

use super::*;

#[test]
fn the_lowest_free_address_of_the_first_pool_is_given() {
    // A11, A33, A34
    let mut world = World::new([
        Pool { priority: Some(20), ..pool("a", 1, &["198.51.100.0/31", "2001:db8:1::/127"]) },
        Pool { priority: Some(10), ..pool("b", 2, &["192.0.2.1-192.0.2.1", "2001:db8:2::1-2001:db8:2::1"]) },
    ]);
    for (families, wanted) in [
        (V4, ["192.0.2.1", "198.51.100.0", "198.51.100.1"]),
        (V6, ["2001:db8:2::1", "2001:db8:1::", "2001:db8:1::1"]),
    ] {
        for (n, addr) in wanted.iter().enumerate() {
            assert_eq!(world.serve(&format!("{families:?}{n}"), &plain(families)), granted(&[addr]));
        }
        let denied = world.decide("late", &plain(families)).unwrap_err();
        assert_eq!(denied.reason(), "PoolsFull");
    }
}

#[test]
fn a_huge_pool_that_is_full_but_for_one_address_is_no_work() {
    // A62: the cost is that of a few look-ups in a tree, or this test would not end.
    for (families, range, last) in
        [(V4, "10.0.0.0/8", "10.255.255.255"), (V6, "fd00::/64", "fd00::ffff:ffff:ffff:ffff")]
    {
        let mut declared = pool("a", 1, &[range]);
        let end = ip(last);
        let before_end = families.list()[0].address(crate::addr::number(end) - 1).unwrap();
        declared.exclude =
            vec![crate::addr::AddrRange::new(declared.addresses[0].first(), before_end).unwrap()];
        assert_eq!(World::new([declared]).decide("s", &plain(families)), granted(&[last]));
    }
}
