use landfall_core::frontend::{Route, Spread};
use landfall_core::service::Protocol;
use nix::errno::Errno;

use super::*;
use crate::datapath::tests::{cluster, data_path, key, table, target, targets, web};
use crate::fake::FakeKernel;
use crate::nft::model::{Life, Value};

type Path = DataPath<FakeKernel>;

fn sticky(front: Frontend) -> Frontend {
    Frontend { spread: Spread::Client, affinity: Some(60), ..front }
}

fn local(v6: bool, local: &[u8], everywhere: &[u8]) -> Frontend {
    let route = Route::Local { local: targets(v6, local), everywhere: targets(v6, everywhere) };
    sticky(Frontend { route, ..cluster(v6, &[]) })
}

fn client(v6: bool, last: u8) -> IpAddr {
    if v6 { format!("2001:db8:99::{last:x}") } else { format!("198.51.100.{last}") }.parse().unwrap()
}

fn map(v6: bool) -> &'static str {
    if v6 { "aff6" } else { "aff4" }
}

/// What the kernel does when that client connects and gets that endpoint.
fn went(path: &mut Path, v6: bool, client: IpAddr, last: u8) {
    let at = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    let key = keys::front(key(v6, 1, Protocol::Tcp)).with(&at(client));
    let life = Life { timeout_ms: 60_000, left_ms: 45_000 };
    let element = Element {
        life: Some(Box::new(life)),
        ..Element::of(key, Value::Data(keys::target(target(v6, last))))
    };
    let ops = vec![Op::Insert { set: map(v6).into(), id: None, elements: vec![element] }];
    path.kernel().apply(&Batch { table: TABLE.into(), ops }).unwrap();
}

/// The records: which client keeps which endpoint.
fn kept(path: &Path, v6: bool) -> Vec<(IpAddr, Target)> {
    let family = if v6 { Family::V6 } else { Family::V4 };
    let records = table(path).sets[map(v6)].elements.values();
    records.map(|element| keys::record(family, element).unwrap()).map(|it| (it.client, it.target)).collect()
}

fn serve(path: &mut Path, v6: bool, front: Frontend) {
    path.set_service(&web(), vec![(key(v6, 1, Protocol::Tcp), front)]);
    path.commit().unwrap();
}

#[test]
fn a_record_is_read_as_the_kernel_lays_it_out() {
    let key = [192, 0, 2, 1, 6, 0, 0, 0, 0, 80, 0, 0, 198, 51, 100, 9];
    let data = Value::Data(Bytes::new(&[10, 0, 0, 7, 0x1f, 0x90, 0, 0]).unwrap());
    let record = keys::record(Family::V4, &Element::of(Bytes::new(&key).unwrap(), data)).unwrap();
    let expected = Record {
        front: super::super::tests::key(false, 1, Protocol::Tcp),
        client: client(false, 9),
        target: target(false, 7),
    };
    assert_eq!(record, expected);
    for short in 0..key.len() {
        let element =
            Element::of(Bytes::new(&key[..short]).unwrap(), Value::Data(keys::target(target(false, 7))));
        assert_eq!(keys::record(Family::V4, &element), None);
    }
}

#[test]
fn a_record_of_an_endpoint_that_is_gone_goes_and_others_stay() {
    // S104
    for v6 in [false, true] {
        let mut path = data_path();
        serve(&mut path, v6, sticky(cluster(v6, &[1, 2, 3])));
        went(&mut path, v6, client(v6, 1), 1);
        went(&mut path, v6, client(v6, 2), 2);
        serve(&mut path, v6, sticky(cluster(v6, &[1, 2, 3, 4])));
        assert_eq!(kept(&path, v6).len(), 2, "one more changes nothing (S102)");
        serve(&mut path, v6, sticky(cluster(v6, &[2, 3, 4])));
        assert_eq!(kept(&path, v6), [(client(v6, 2), target(v6, 2))]);
        path.remove_service(&web());
        path.commit().unwrap();
        assert_eq!(kept(&path, v6), []);
    }
}

#[test]
fn a_record_that_a_packet_under_way_brings_back_goes_too() {
    // S104
    for v6 in [false, true] {
        let mut path = data_path();
        serve(&mut path, v6, sticky(cluster(v6, &[1, 2])));
        path.set_service(&web(), vec![(key(v6, 1, Protocol::Tcp), sticky(cluster(v6, &[2])))]);
        path.commit_ready().unwrap();
        went(&mut path, v6, client(v6, 1), 1);
        assert!(path.is_incomplete());
        path.commit().unwrap();
        assert_eq!(kept(&path, v6), []);
    }
}

#[test]
fn switching_affinity_off_forgets_and_a_changed_timeout_does_not() {
    // S107, S108
    for v6 in [false, true] {
        let mut path = data_path();
        serve(&mut path, v6, sticky(cluster(v6, &[1, 2])));
        let timers = |path: &Path| -> Vec<String> {
            let names = table(path).chains.keys().map(ToString::to_string);
            names.filter(|name| name.starts_with('t')).collect()
        };
        let timer = |timeout_s: u32| format!("t{}_{timeout_s}", if v6 { 6 } else { 4 });
        assert_eq!(timers(&path), [timer(60)]);
        went(&mut path, v6, client(v6, 1), 1);
        serve(&mut path, v6, Frontend { affinity: Some(90), ..sticky(cluster(v6, &[1, 2])) });
        assert_eq!(timers(&path), [timer(90)]);
        assert_eq!(kept(&path, v6).len(), 1);
        serve(&mut path, v6, cluster(v6, &[1, 2]));
        assert!(timers(&path).is_empty() && kept(&path, v6).is_empty());
    }
}

#[test]
fn with_the_policy_local_a_client_outside_loses_an_endpoint_elsewhere_and_a_pod_keeps_it() {
    // S109
    for v6 in [false, true] {
        let pod: IpAddr = if v6 { "fd00:1::9" } else { "10.244.1.9" }.parse().unwrap();
        let mut path = data_path();
        let pod_cidrs = ["10.244.1.0/24", "fd00:1::/64"].map(|net| net.parse().unwrap()).to_vec();
        path.set_node(NodeNet { pod_cidrs });
        serve(&mut path, v6, sticky(cluster(v6, &[1, 2])));
        for who in [client(v6, 1), pod] {
            went(&mut path, v6, who, 2);
        }
        serve(&mut path, v6, local(v6, &[1], &[1, 2]));
        assert_eq!(kept(&path, v6), [(pod, target(v6, 2))]);
    }
}

#[test]
fn records_that_still_lead_somewhere_survive_a_restart_with_their_time() {
    // S111
    for v6 in [false, true] {
        let mut path = data_path();
        serve(&mut path, v6, sticky(cluster(v6, &[1, 2])));
        went(&mut path, v6, client(v6, 1), 1);
        went(&mut path, v6, client(v6, 2), 2);
        let mut next = DataPath::new(path.into_kernel(), 7);
        serve(&mut next, v6, sticky(cluster(v6, &[2, 3])));
        assert_eq!(kept(&next, v6), [(client(v6, 2), target(v6, 2))]);
        let life = table(&next).sets[map(v6)].elements.values().next().unwrap().life.clone();
        assert_eq!(life.as_deref(), Some(&Life { timeout_ms: 60_000, left_ms: 45_000 }));
    }
}

#[test]
fn a_record_whose_time_is_over_just_then_does_not_keep_others_from_being_deleted() {
    for v6 in [false, true] {
        let mut path = data_path();
        serve(&mut path, v6, sticky(cluster(v6, &[1])));
        for last in 1..5 {
            went(&mut path, v6, client(v6, last), 9);
        }
        path.kernel().fail_next(Errno::ENOENT);
        path.purge();
        assert_eq!(kept(&path, v6), []);
    }
}
