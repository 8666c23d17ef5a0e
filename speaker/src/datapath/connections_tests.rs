use std::mem;

use super::super::DataPath;
use super::super::tests::{SEED, cluster, data_path, key, only, target, targets, web};
use super::*;
use crate::fake::FakeKernel;

#[test]
fn udp_and_sctp_flows_to_an_endpoint_that_is_gone_are_forgotten_and_others_kept() {
    for v6 in [false, true] {
        let mut path = data_path();
        let fronts = |lasts: &[u8], draining: &[u8]| {
            [Protocol::Udp, Protocol::Sctp, Protocol::Tcp]
                .map(|protocol| {
                    let mut front = cluster(v6, lasts);
                    if protocol != Protocol::Tcp {
                        front.draining = targets(v6, draining);
                    }
                    (key(v6, 1, protocol), front)
                })
                .to_vec()
        };
        let stay = |lasts: &[u8]| {
            let endpoints = Kept::Only(lasts.iter().map(|last| target(v6, *last)).collect());
            [Protocol::Udp, Protocol::Sctp].map(|protocol| {
                let stay = Stay { endpoints: endpoints.clone(), sources: Admission::Anyone };
                (key(v6, 1, protocol), stay)
            })
        };
        path.set_service(&web(), fronts(&[1, 2, 3], &[]));
        path.commit().unwrap();
        // What changed while nobody was there.
        assert_eq!(mem::take(&mut path.kernel.forgotten), stay(&[1, 2, 3]));
        path.set_service(&web(), fronts(&[1, 3], &[2]));
        path.commit().unwrap();
        assert_eq!(path.kernel.forgotten, [], "S125: an endpoint that still serves keeps its flows");
        path.set_service(&web(), fronts(&[3], &[]));
        path.commit().unwrap();
        // S124, S128
        assert_eq!(mem::take(&mut path.kernel.forgotten), stay(&[3]));
        // S126: to none at all; S127: and what began meanwhile goes when there is one again.
        path.set_service(&web(), fronts(&[], &[]));
        path.commit().unwrap();
        assert_eq!(mem::take(&mut path.kernel.forgotten), stay(&[]));
        path.set_service(&web(), fronts(&[4], &[]));
        path.commit().unwrap();
        assert_eq!(mem::take(&mut path.kernel.forgotten), stay(&[4]));
        path.remove_service(&web());
        path.commit().unwrap();
        assert_eq!(mem::take(&mut path.kernel.forgotten), stay(&[]));
    }
}

#[test]
fn flows_of_every_protocol_to_an_endpoint_on_a_dead_node_are_forgotten() {
    for v6 in [false, true] {
        for protocol in Protocol::ALL {
            let mut path = data_path();
            let front = |lasts: &[u8], lost: &[u8]| {
                let mut front = cluster(v6, lasts);
                front.lost = targets(v6, lost);
                vec![(key(v6, 1, protocol), front)]
            };
            let endpoints = |of: &[u8]| of.iter().map(|last| target(v6, *last)).collect();
            path.set_service(&web(), front(&[1, 2, 3], &[]));
            path.commit().unwrap();
            path.kernel.forgotten.clear();
            path.set_service(&web(), front(&[1], &[2]));
            path.commit().unwrap();
            let stays = match protocol {
                // S124: those to the third one, which has only gone, are left to their ends.
                Protocol::Tcp => Kept::AllBut(endpoints(&[2])),
                Protocol::Udp | Protocol::Sctp => Kept::Only(endpoints(&[1])),
            };
            let wanted = (key(v6, 1, protocol), Stay { endpoints: stays, sources: Admission::Anyone });
            assert_eq!(mem::take(&mut path.kernel.forgotten), std::slice::from_ref(&wanted), "{protocol}");
            path.set_service(&web(), front(&[1], &[]));
            path.commit().unwrap();
            assert_eq!(path.kernel.forgotten, [], "{protocol}: when the slices have noticed");
            // The next process may find them still there.
            path.set_service(&web(), front(&[1], &[2]));
            path.commit().unwrap();
            path.kernel.forgotten.clear();
            let mut next = DataPath::new(path.into_kernel(), SEED);
            next.set_service(&web(), front(&[1], &[2]));
            next.commit().unwrap();
            assert_eq!(next.kernel.forgotten, [wanted], "{protocol}");
        }
    }
}

#[test]
fn flows_of_every_protocol_from_sources_no_longer_admitted_are_forgotten() {
    // X8
    for (v6, first, other) in
        [(false, "192.0.2.0/24", "198.51.100.0/24"), (true, "2001:db8::/32", "fd00::/8")]
    {
        for protocol in Protocol::ALL {
            let mut path = data_path();
            let step = |path: &mut DataPath<FakeKernel>, front: Frontend| {
                path.set_service(&web(), vec![(key(v6, 1, protocol), front)]);
                path.commit().unwrap();
                mem::take(&mut path.kernel.forgotten)
            };
            step(&mut path, cluster(v6, &[1]));
            let restricted = only(cluster(v6, &[1]), &[first]);
            let gone = step(&mut path, restricted.clone());
            assert_eq!(gone.len(), 1);
            assert_eq!(gone[0].1.sources, restricted.admission, "{protocol}");
            assert_eq!(gone[0].1.endpoints != Kept::All, protocol != Protocol::Tcp);
            assert_eq!(step(&mut path, only(cluster(v6, &[1]), &[other])).len(), 1);
            assert_eq!(step(&mut path, cluster(v6, &[1])), [], "opened again: nobody has to go");
            let next = step(&mut path, Frontend { admission: Admission::Nobody, ..cluster(v6, &[1]) });
            assert_eq!(next[0].1.sources, Admission::Nobody);
        }
    }
}
