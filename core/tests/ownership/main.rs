//! Ownership as a whole: several nodes with the real decision, an API server that can fail, and faults. Everything
//! runs on simulated time.

#[cfg(test)]
mod sim;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use sim::{Fault, Sim, ip, secs};

fn vips() -> Vec<IpAddr> {
    let v4 = (100..116).map(|n| ip(&format!("192.0.2.{n}")));
    let v6 = (0x100..0x110).map(|n| ip(&format!("2001:db8:50::{n:x}")));
    v4.chain(v6).collect()
}

/// Three nodes that have shared the addresses for a while.
fn three() -> Sim {
    let mut sim = Sim::new(3, &vips(), &[7, 23, 41]);
    sim.run(secs(10));
    sim.assert_settled();
    sim
}

#[test]
fn every_address_of_both_families_has_exactly_one_holder() {
    let sim = three();
    let holders: BTreeSet<usize> = vips().iter().flat_map(|vip| sim.holders(*vip)).collect();
    assert_eq!(holders, BTreeSet::from([0, 1, 2]), "every node has its share");
}

#[test]
fn the_addresses_of_a_dead_node_move_within_five_seconds_and_no_others() {
    let mut sim = three();
    let before = sim.ownership();
    sim.fault(Fault::Stop(1));
    sim.run(secs(5));
    sim.assert_settled();
    for (vip, holders) in before {
        if holders != [1] {
            assert_eq!(sim.holders(vip), holders, "{vip} had nothing to do with it");
        }
    }
}

#[test]
fn a_node_that_comes_back_takes_its_addresses_after_the_others_let_go() {
    let mut sim = three();
    let before = sim.ownership();
    sim.fault(Fault::Stop(1));
    sim.run(secs(10));
    sim.fault(Fault::Start(1));
    sim.run(secs(5));
    assert_eq!(sim.ownership(), before);
    assert_eq!(sim.longest_overlap(), Duration::ZERO);
}

#[test]
fn a_speaker_that_restarts_within_four_seconds_moves_nothing_to_others() {
    let mut sim = three();
    let gains = sim.gains();
    sim.fault(Fault::Stop(1));
    sim.run(Duration::from_millis(2500));
    sim.fault(Fault::Start(1));
    sim.run(secs(10));
    sim.assert_settled();
    assert_eq!((sim.gains()[0], sim.gains()[2]), (gains[0], gains[2]));
}

#[test]
fn a_new_speaker_believes_the_others_about_who_is_dead() {
    let mut sim = three();
    sim.fault(Fault::Stop(0));
    sim.run(secs(8));
    sim.fault(Fault::Stop(1));
    sim.run(secs(1));
    sim.fault(Fault::Start(1));
    sim.run(Duration::from_millis(1500));
    // Node 0 has been dead all the time: what node 1 wins without it must not wait for its own judgement.
    sim.assert_settled();
}

#[test]
fn while_the_api_server_is_away_and_after_it_comes_back_nothing_changes() {
    for away in [1, 3, 5, 30, 300] {
        let mut sim = three();
        let (before, gains) = (sim.ownership(), sim.gains());
        sim.fault(Fault::ServerDown);
        sim.run(secs(away));
        assert_eq!(sim.ownership(), before, "{away} s without");
        sim.fault(Fault::ServerUp);
        sim.run(secs(20));
        assert_eq!((sim.ownership(), sim.gains()), (before, gains), "{away} s, and back");
    }
}

#[test]
fn a_node_that_dies_while_the_api_server_is_away_is_judged_after_it_comes_back() {
    let mut sim = three();
    sim.fault(Fault::ServerDown);
    sim.run(secs(10));
    sim.fault(Fault::Stop(2));
    sim.run(secs(10));
    sim.fault(Fault::ServerUp);
    sim.run(secs(3));
    assert!(vips().iter().any(|vip| sim.holders(*vip).is_empty()), "not before everybody could be heard");
    sim.run(secs(4));
    sim.assert_settled();
}

#[test]
fn a_node_that_was_cut_off_goes_silent_as_soon_as_it_is_back() {
    for away in [5, 60] {
        let mut sim = three();
        let before = sim.ownership();
        sim.fault(Fault::Cut(1));
        sim.run(secs(away));
        let mine: Vec<_> =
            before.iter().filter(|(_, holders)| **holders == [1]).map(|(vip, _)| *vip).collect();
        for vip in &mine {
            assert_eq!(sim.holders(*vip).len(), 2, "the cut-off node does not know: {vip}");
        }
        let gains = sim.gains()[1];
        sim.fault(Fault::Heal(1));
        let healed = sim.now();
        sim.run(secs(8));
        sim.assert_settled();
        assert_eq!(sim.ownership(), before, "and then has its own again");
        // Gained anew, so announced anew: the clients have learnt the other's hardware address in the meantime.
        assert_eq!(sim.gains()[1], gains + mine.len());
        let overlap = sim.last_overlap().unwrap().saturating_sub(healed);
        assert!(overlap < Duration::from_millis(500), "two holders for {overlap:?} after the heal");
    }
}

#[test]
fn a_short_cut_moves_nothing() {
    let mut sim = three();
    let gains = sim.gains();
    sim.fault(Fault::Cut(1));
    sim.run(Duration::from_millis(2500));
    sim.fault(Fault::Heal(1));
    sim.run(secs(10));
    assert_eq!(sim.gains(), gains);
}

#[test]
fn a_node_whose_interface_loses_carrier_hands_over_at_once() {
    let mut sim = three();
    sim.fault(Fault::CarrierDown(1));
    sim.run(Duration::from_millis(300));
    sim.assert_settled();
    sim.fault(Fault::CarrierUp(1));
    sim.run(secs(2));
    sim.assert_settled();
    assert_eq!(sim.longest_overlap(), Duration::ZERO);
}

#[test]
fn a_deleted_record_of_a_living_node_moves_nothing() {
    let mut sim = three();
    let gains = sim.gains();
    sim.fault(Fault::DeleteRecord(1));
    sim.run(secs(10));
    sim.assert_settled();
    assert_eq!(sim.gains(), gains);
}

#[test]
fn a_node_that_may_not_announce_any_more_lets_go_before_another_takes() {
    let mut sim = three();
    sim.bar(1, true);
    sim.run(secs(1));
    assert!(vips().iter().all(|vip| sim.holders(*vip).len() == 1 && sim.holders(*vip) != [1]));
    sim.bar(1, false);
    sim.run(secs(1));
    sim.assert_settled();
    assert_eq!(sim.longest_overlap(), Duration::ZERO);
}

fn faults() -> impl Strategy<Value = Vec<(u64, Fault)>> {
    let node = 0usize..4;
    let fault = prop_oneof![
        node.clone().prop_map(Fault::Stop),
        node.clone().prop_map(Fault::Start),
        node.clone().prop_map(Fault::Cut),
        node.clone().prop_map(Fault::Heal),
        node.clone().prop_map(Fault::CarrierDown),
        node.clone().prop_map(Fault::CarrierUp),
        node.prop_map(Fault::DeleteRecord),
        Just(Fault::ServerDown),
        Just(Fault::ServerUp),
    ];
    prop::collection::vec((0u64..8000, fault), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_happens_two_nodes_hold_an_address_only_around_a_cut(
        faults in faults(),
        latencies in prop::collection::vec(5u64..60, 4),
    ) {
        let mut sim = Sim::new(4, &vips()[14..18], &latencies);
        sim.run(secs(8));
        for (pause, fault) in faults {
            sim.fault(fault);
            sim.run(Duration::from_millis(pause));
            prop_assert_eq!(sim.longest_overlap(), Duration::ZERO);
        }
        sim.heal_everything();
        sim.run(secs(12));
        sim.assert_settled();
    }
}
