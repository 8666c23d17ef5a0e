use std::net::IpAddr;
use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::addr::Family;
use crate::frontend::merged;

fn target(v6: bool, last: u8) -> Target {
    let addr = if v6 { format!("fd00::{last:x}") } else { format!("10.0.0.{last}") };
    Target { addr: addr.parse().unwrap(), port: NonZeroU16::new(8080).unwrap() }
}

fn targets(v6: bool, lasts: &[u8]) -> Box<[Target]> {
    let mut made: Vec<Target> = lasts.iter().map(|last| target(v6, *last)).collect();
    made.sort_unstable();
    made.dedup();
    made.into()
}

fn front(route: Route) -> Frontend {
    Frontend {
        owned: true,
        admission: Admission::Anyone,
        spread: Spread::Flow,
        affinity: None,
        route,
        draining: Box::default(),
        lost: Box::default(),
    }
}

fn cluster(v6: bool, lasts: &[u8]) -> Frontend {
    front(Route::Cluster { targets: targets(v6, lasts) })
}

fn local(v6: bool, local: &[u8], everywhere: &[u8]) -> Frontend {
    front(Route::Local { local: targets(v6, local), everywhere: targets(v6, everywhere) })
}

fn forwards(space: Space, count: u32) -> Outcome {
    Outcome::Forward { space, spread: Spread::Flow, count }
}

fn outcome(front: &Frontend, slot: Slot) -> Option<Dispatch> {
    match entries(front).get(&slot) {
        Some(Entry::Dispatch(dispatch)) => Some(*dispatch),
        _ => None,
    }
}

#[test]
fn the_decision_follows_the_endpoints_there_are() {
    // S7, S39, S40, S47 to S49
    use Space::{Everywhere, Local};
    for v6 in [false, true] {
        for (what, front, external, internal) in [
            ("some", cluster(v6, &[1, 2]), forwards(Everywhere, 2), None),
            ("none", cluster(v6, &[]), Outcome::Reject, None),
            ("local ones", local(v6, &[1], &[1, 2]), forwards(Local, 1), Some(forwards(Everywhere, 2))),
            ("elsewhere only", local(v6, &[], &[2]), Outcome::Drop, Some(forwards(Everywhere, 1))),
            ("nowhere", local(v6, &[], &[]), Outcome::Reject, Some(Outcome::Reject)),
        ] {
            let plain = |outcome| Dispatch { guarded: false, outcome };
            assert_eq!(outcome(&front, Slot::External), Some(plain(external)), "{what}");
            assert_eq!(outcome(&front, Slot::Internal), internal.map(plain), "{what}");
        }
    }
}

#[test]
fn sources_are_looked_at_before_anything_else_but_a_drop() {
    // S65, S71
    for (v6, range) in [(false, "192.0.2.0/24"), (true, "2001:db8::/32")] {
        let ranges = Admission::Ranges([range.parse().unwrap()].into());
        for (what, mut front, guarded) in [
            ("endpoints", cluster(v6, &[1]), true),
            ("none: refused only to whom it is open", cluster(v6, &[]), true),
            ("silence for everybody", local(v6, &[], &[2]), false),
        ] {
            front.admission = ranges.clone();
            assert_eq!(outcome(&front, Slot::External).map(|found| found.guarded), Some(guarded), "{what}");
            front.admission = Admission::Nobody;
            let closed = Dispatch { guarded: false, outcome: Outcome::Drop };
            assert_eq!(outcome(&front, Slot::External), Some(closed), "{what}");
        }
    }
}

#[test]
fn one_endpoint_exchanged_is_two_steps() {
    for v6 in [false, true] {
        let changes = diff(Some(&cluster(v6, &[1, 2, 4])), Some(&cluster(v6, &[1, 3, 4])));
        let slot = Slot::Endpoint(Space::Everywhere, 1);
        assert_eq!(
            changes,
            [
                Change::Remove(slot, Entry::Target(target(v6, 2))),
                Change::Insert(slot, Entry::Target(target(v6, 3)))
            ]
        );
    }
}

#[test]
fn an_endpoint_less_changes_the_decision_and_the_indexes_behind_it() {
    for v6 in [false, true] {
        let changes = diff(Some(&cluster(v6, &[1, 2])), Some(&cluster(v6, &[2])));
        let slots: Vec<Slot> = changes
            .iter()
            .map(|change| match change {
                Change::Remove(slot, _) | Change::Insert(slot, _) => *slot,
            })
            .collect();
        let endpoint = |index| Slot::Endpoint(Space::Everywhere, index);
        assert_eq!(slots, [Slot::External, endpoint(0), endpoint(1), Slot::External, endpoint(0)]);
    }
}

#[test]
fn a_changed_timeout_changes_what_is_recorded_and_nothing_else() {
    // S107, S108
    for v6 in [false, true] {
        let sticky = |timeout_s| Frontend {
            spread: Spread::Client,
            affinity: Some(timeout_s),
            ..cluster(v6, &[1, 2])
        };
        assert_eq!(
            diff(Some(&sticky(60)), Some(&sticky(90))),
            [
                Change::Remove(Slot::Record, Entry::Record(60)),
                Change::Insert(Slot::Record, Entry::Record(90))
            ]
        );
        let off = diff(Some(&sticky(60)), Some(&cluster(v6, &[1, 2])));
        assert!(off.contains(&Change::Remove(Slot::Record, Entry::Record(60))), "{off:?}");
        assert!(!off.iter().any(|change| matches!(change, Change::Insert(Slot::Record, _))));
    }
}

fn any_front(v6: bool) -> impl Strategy<Value = Frontend> {
    let list = || prop::collection::vec(1u8..12, 0..8);
    let admission = prop_oneof![
        Just(Admission::Anyone),
        Just(Admission::Nobody),
        prop::collection::vec((any::<u32>(), 1u8..=32), 1..5).prop_map(move |nets| {
            let family = if v6 { Family::V6 } else { Family::V4 };
            let net = |(bits, len): (u32, u8)| {
                let addr: IpAddr = match family {
                    Family::V4 => std::net::Ipv4Addr::from(bits).into(),
                    Family::V6 => std::net::Ipv6Addr::from(u128::from(bits) << 96).into(),
                };
                ipnet::IpNet::new(addr, len).unwrap()
            };
            Admission::Ranges(merged(nets.into_iter().map(net), family).into())
        }),
    ];
    let affinity = prop::option::of(1u32..4);
    let route = (any::<bool>(), list(), list()).prop_map(move |(is_local, a, b)| {
        if is_local {
            Route::Local { local: targets(v6, &a), everywhere: targets(v6, &b) }
        } else {
            Route::Cluster { targets: targets(v6, &a) }
        }
    });
    (admission, affinity, route).prop_map(|(admission, affinity, route)| Frontend {
        owned: true,
        admission,
        spread: affinity.map_or(Spread::Flow, |_| Spread::Client),
        affinity,
        route,
        draining: Box::default(),
        lost: Box::default(),
    })
}

fn maybe(v6: bool) -> impl Strategy<Value = Option<Frontend>> {
    prop::option::of(any_front(v6))
}

/// Does what the kernel would do, with its strictness: nothing is removed that is not there as said, nothing is
/// inserted where something is.
fn apply(entries: &mut BTreeMap<Slot, Entry>, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Remove(slot, entry) => assert_eq!(entries.remove(slot), Some(*entry)),
            Change::Insert(slot, entry) => assert_eq!(entries.insert(*slot, *entry), None),
        }
    }
}

proptest! {
    #[test]
    fn a_difference_leads_from_one_front_end_to_the_other(
        (a, b) in any::<bool>().prop_flat_map(|v6| (maybe(v6), maybe(v6)))
    ) {
        let mut state = a.as_ref().map(entries).unwrap_or_default();
        apply(&mut state, &diff(a.as_ref(), b.as_ref()));
        prop_assert_eq!(state, b.as_ref().map(entries).unwrap_or_default());
    }

    #[test]
    fn equal_front_ends_have_no_difference(front in any::<bool>().prop_flat_map(any_front)) {
        prop_assert_eq!(diff(Some(&front), Some(&front.clone())), []);
    }

    #[test]
    fn every_index_a_choice_can_yield_has_an_endpoint(front in any::<bool>().prop_flat_map(any_front)) {
        let made = entries(&front);
        for entry in made.values() {
            if let Entry::Dispatch(Dispatch { outcome: Outcome::Forward { space, count, .. }, .. }) = entry {
                prop_assert!(*count > 0);
                for index in 0..*count {
                    prop_assert!(made.contains_key(&Slot::Endpoint(*space, index)));
                }
            }
        }
    }
}
