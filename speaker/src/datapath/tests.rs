use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use landfall_core::addr::Family;
use landfall_core::endpoints::Target;
use landfall_core::frontend::{Admission, Route, Spread};
use landfall_core::service::Protocol;
use nix::errno::Errno;
use proptest::prelude::*;

use super::*;
use crate::fake::{FakeKernel, FakeTable};
use crate::nft::model::{Bytes, Element, Expr, Name, Value, Verdict};

pub(super) const SEED: u32 = 7;

pub(super) fn key(v6: bool, last: u16, protocol: Protocol) -> FrontendKey {
    let addr: IpAddr = if v6 {
        std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into()
    } else {
        std::net::Ipv4Addr::from(0xc000_0200 + u32::from(last)).into()
    };
    FrontendKey { addr, protocol, port: NonZeroU16::new(80).unwrap() }
}

pub(super) fn target(v6: bool, last: u8) -> Target {
    let addr = if v6 { format!("fd00::{last:x}") } else { format!("10.0.0.{last}") };
    Target { addr: addr.parse().unwrap(), port: NonZeroU16::new(8080).unwrap() }
}

pub(super) fn targets(v6: bool, lasts: &[u8]) -> Box<[Target]> {
    let set: BTreeSet<Target> = lasts.iter().map(|last| target(v6, *last)).collect();
    set.into_iter().collect()
}

pub(super) fn cluster(v6: bool, lasts: &[u8]) -> Frontend {
    Frontend {
        owned: true,
        admission: Admission::Anyone,
        spread: Spread::Flow,
        affinity: None,
        route: Route::Cluster { targets: targets(v6, lasts) },
        draining: Box::default(),
        lost: Box::default(),
    }
}

pub(super) fn only(mut front: Frontend, ranges: &[&str]) -> Frontend {
    front.admission = Admission::Ranges(ranges.iter().map(|range| range.parse().unwrap()).collect());
    front
}

pub(super) fn web() -> ServiceKey {
    ServiceKey::new("default", "web")
}

pub(super) fn data_path() -> DataPath<FakeKernel> {
    DataPath::new(FakeKernel::new(), SEED)
}

pub(super) fn table(path: &DataPath<FakeKernel>) -> &FakeTable {
    path.kernel.table(TABLE).expect("the table")
}

fn batches(path: &mut DataPath<FakeKernel>) -> Vec<Batch> {
    mem::take(&mut path.kernel.applied)
}

/// Everything in the table that packets could notice, with the two sets of sources as one: which of them a front
/// end is in depends on its past.
fn substance(table: &FakeTable) -> BTreeMap<String, Vec<String>> {
    let one_bank = |name: &str| match name {
        "src4b" => "src4a".to_owned(),
        "src6b" => "src6a".to_owned(),
        other => other.replace("fwb_", "fwa_"),
    };
    let mut made: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, set) in table.sets.iter().filter(|(_, set)| !set.declared.anonymous) {
        let elements = made.entry(format!("set {}", one_bank(name))).or_default();
        let numbered = matches!(&**name, "svc4" | "svc6" | "int4" | "int6" | "plan");
        let with_one_bank = |element: &Element| if numbered { in_one_bank(element) } else { element.clone() };
        elements
            .extend(set.elements.values().map(|element| one_bank(&format!("{:?}", with_one_bank(element)))));
        elements.sort();
        // The same chain before each of the two sets is one.
        elements.dedup();
    }
    for (name, chain) in &table.chains {
        let rules = chain.rules.iter().map(|rule| one_bank(&format!("{:?}", named(table, rule)))).collect();
        made.insert(format!("chain {}", one_bank(name)), rules);
    }
    made
}

/// An element that names a chain by its number, without which set of sources that chain uses.
fn in_one_bank(element: &Element) -> Element {
    let one = |bytes: Bytes| match bytes.as_slice().first_chunk() {
        Some(class) if u32::from_ne_bytes(*class) >> 28 == 2 => {
            Bytes::EMPTY.with(&(u32::from_ne_bytes(*class) - (1 << 28)).to_ne_bytes())
        }
        _ => bytes,
    };
    let mut element = element.clone();
    match &mut element.value {
        Value::Data(class) => *class = one(*class),
        _ => element.key = one(element.key),
    }
    element
}

/// A rule with the contents of anonymous sets in place of their names, and without which set of sources it uses.
fn named(table: &FakeTable, rule: &[Expr]) -> Vec<Expr> {
    let mut rule = rule.to_vec();
    for expr in &mut rule {
        if let Expr::Lookup { set, id, .. } = expr {
            *id = None;
            *set = match &**set {
                "src4b" => "src4a".into(),
                "src6b" => "src6a".into(),
                other => match table.set(other) {
                    Some(found) if found.declared.anonymous => format!("{:?}", found.elements.keys()).into(),
                    _ => Name::from(other),
                },
            };
        }
    }
    rule
}

#[test]
fn the_first_commit_is_one_batch_and_later_ones_carry_what_changed() {
    for v6 in [false, true] {
        let mut path = data_path();
        path.set_service(&web(), vec![(key(v6, 1, Protocol::Tcp), cluster(v6, &[1, 2, 3]))]);
        let first = path.commit().unwrap();
        assert!(first.full && first.bytes > 0);
        assert_eq!(batches(&mut path).len(), 1);
        assert!(path.owns(&key(v6, 1, Protocol::Tcp)));

        path.set_service(&web(), vec![(key(v6, 1, Protocol::Tcp), cluster(v6, &[1, 2, 4]))]);
        let second = path.commit().unwrap();
        assert_eq!((second.full, second.operations), (false, 2), "one endpoint out, one in");
        assert!(second.generation > first.generation);

        let idle = path.commit().unwrap();
        assert_eq!((idle.operations, idle.bytes, idle.generation), (0, 0, second.generation));
        assert_eq!(batches(&mut path).len(), 1, "nothing is sent when nothing changed");
    }
}

#[test]
fn setting_what_is_there_changes_nothing() {
    let mut path = data_path();
    let fronts = vec![(key(false, 1, Protocol::Tcp), cluster(false, &[1]))];
    path.set_service(&web(), fronts.clone());
    path.commit().unwrap();
    path.set_service(&web(), fronts);
    path.set_node(NodeNet::default());
    assert_eq!(path.commit().unwrap().operations, 0);
}

#[test]
fn chains_come_with_the_first_user_and_go_with_the_last() {
    let mut path = data_path();
    let two = ServiceKey::new("default", "two");
    path.set_service(&web(), vec![(key(false, 1, Protocol::Tcp), cluster(false, &[1, 2]))]);
    path.set_service(&two, vec![(key(true, 1, Protocol::Tcp), cluster(true, &[1, 2]))]);
    path.commit().unwrap();
    assert!(table(&path).chains.contains_key("n2") && !table(&path).chains.contains_key("n1"));
    path.set_service(&web(), vec![(key(false, 1, Protocol::Tcp), cluster(false, &[1]))]);
    path.commit().unwrap();
    assert!(table(&path).chains.contains_key("n2") && table(&path).chains.contains_key("n1"));
    path.remove_service(&two);
    path.commit().unwrap();
    assert!(!table(&path).chains.contains_key("n2") && table(&path).chains.contains_key("n1"));
}

#[test]
fn changed_ranges_are_there_before_and_gone_after_anything_leads_to_them() {
    for (v6, ranges) in
        [(false, ["192.0.2.0/24", "192.0.2.0/25"]), (true, ["2001:db8::/32", "2001:db8::/33"])]
    {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let front = |range: &str| vec![(key(v6, 1, Protocol::Tcp), only(cluster(v6, &[1]), &[range]))];
        let mut path = data_path();
        path.set_service(&web(), front(ranges[0]));
        path.commit().unwrap();
        batches(&mut path);
        path.set_service(&web(), front(ranges[1]));
        path.commit().unwrap();
        let is_source = |name: &Name| name.starts_with("src");
        let kinds: Vec<Vec<&str>> = batches(&mut path)
            .iter()
            .map(|batch| {
                let kinds = batch.ops.iter().filter_map(|op| match op {
                    Op::Insert { set, .. } if is_source(set) => Some("sources in"),
                    Op::Remove { set, .. } if is_source(set) => Some("sources out"),
                    Op::Insert { set, .. } if *set == layout::Map::Service.name(family) => Some("dispatch"),
                    _ => None,
                });
                kinds.collect()
            })
            .collect();
        assert_eq!(kinds, [["sources in"], ["dispatch"], ["sources out"]], "{family}");
    }
}

#[test]
fn a_refused_update_becomes_a_full_replacement() {
    let mut path = data_path();
    path.set_service(&web(), vec![(key(false, 1, Protocol::Tcp), cluster(false, &[1]))]);
    path.commit().unwrap();
    path.set_service(&web(), vec![(key(false, 1, Protocol::Tcp), cluster(false, &[2]))]);
    path.kernel.fail_next(Errno::ENOENT);
    assert!(path.commit().unwrap().full);
    assert!(format!("{:?}", table(&path).sets["ep4"].elements).contains("0a000002"));
}

#[test]
fn nothing_staged_is_lost_when_the_kernel_refuses_everything() {
    let mut path = data_path();
    path.set_service(&web(), vec![(key(false, 1, Protocol::Udp), cluster(false, &[1]))]);
    path.kernel.fail_next(Errno::ENOMEM);
    let error = path.commit().unwrap_err();
    assert!(matches!(error, ApplyError::Rejected { index: 0, .. }), "{error}");
    assert!(!path.owns(&key(false, 1, Protocol::Udp)));
    assert!(path.commit().unwrap().full);
    assert!(path.owns(&key(false, 1, Protocol::Udp)));
}

#[test]
fn a_table_that_somebody_removed_is_noticed_and_written_again() {
    let mut path = data_path();
    assert!(!path.verify().unwrap(), "nothing has been written yet");
    path.set_service(&web(), vec![(key(false, 1, Protocol::Tcp), cluster(false, &[1]))]);
    path.commit().unwrap();
    assert!(path.verify().unwrap());
    path.kernel.delete_table(TABLE);
    assert!(!path.verify().unwrap());
    assert!(path.commit().unwrap().full);
    assert!(path.verify().unwrap());
}

#[test]
fn a_map_that_fills_up_is_replaced_by_a_bigger_one() {
    let mut path = data_path();
    path.commit().unwrap();
    assert_eq!(table(&path).sets["svc4"].declared.size, Some(1024));
    let service = |index: u16| ServiceKey::new("default", format!("s{index}"));
    let mut full = 0;
    for index in 0..800 {
        path.set_service(&service(index), vec![(key(false, index, Protocol::Tcp), cluster(false, &[1]))]);
        full += usize::from(path.commit().unwrap().full);
    }
    assert_eq!(full, 1, "once, at three quarters");
    assert_eq!(table(&path).sets["svc4"].declared.size, Some(2048));
    assert_eq!(table(&path).sets["svc4"].elements.len(), 800);
}

#[test]
fn a_front_end_stays_with_the_first_service_and_goes_to_the_next_when_that_leaves() {
    let mut path = data_path();
    let rival = ServiceKey::new("default", "rival");
    let at = key(false, 1, Protocol::Tcp);
    path.set_service(&web(), vec![(at, cluster(false, &[1]))]);
    path.set_service(&rival, vec![(at, cluster(false, &[2]))]);
    path.commit().unwrap();
    let endpoint = |path: &DataPath<FakeKernel>| format!("{:?}", table(path).sets["ep4"].elements.values());
    assert!(endpoint(&path).contains("0a000001"));
    path.remove_service(&web());
    path.commit().unwrap();
    assert!(endpoint(&path).contains("0a000002"));
    path.remove_service(&rival);
    path.commit().unwrap();
    assert!(path.is_empty() && table(&path).sets["svc4"].elements.is_empty());
}

#[test]
fn pods_of_the_node_are_internal() {
    let mut path = data_path();
    let nets =
        |texts: &[&str]| NodeNet { pod_cidrs: texts.iter().map(|text| text.parse().unwrap()).collect() };
    path.set_node(nets(&["10.244.1.0/24", "fd00:1::/64"]));
    path.commit().unwrap();
    assert_eq!(table(&path).sets["pod4"].elements.len(), 2, "the first address, and the first one behind");
    assert_eq!(table(&path).sets["pod6"].elements.len(), 2);
    path.set_node(nets(&["255.255.255.0/24", "10.244.2.0/24", "10.244.3.0/24"]));
    let committed = path.commit().unwrap();
    assert!(!committed.full);
    assert_eq!(
        table(&path).sets["pod4"].elements.len(),
        3,
        "neighbours are one range, and the last has no end"
    );
    assert!(table(&path).sets["pod6"].elements.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, Vec<(u16, Frontend)>),
    Remove(u8),
    Fail,
    Commit,
}

fn fronts(v6: bool) -> impl Strategy<Value = Frontend> {
    let list = || prop::collection::vec(1u8..6, 0..4);
    let ranges = if v6 { ["2001:db8::/32", "fd00::/16"] } else { ["192.0.2.0/24", "10.0.0.0/8"] };
    let admission = prop::sample::subsequence(ranges.to_vec(), 0..=2).prop_flat_map(|ranges| {
        let mut ranges: Vec<landfall_core::addr::AddrRange> =
            ranges.iter().map(|range| range.parse().unwrap()).collect();
        ranges.sort_unstable();
        let given = if ranges.is_empty() { Admission::Nobody } else { Admission::Ranges(ranges.into()) };
        prop_oneof![Just(Admission::Anyone), Just(given)]
    });
    let affinity = prop::option::of(1u32..3);
    (admission, affinity, any::<bool>(), list(), list()).prop_map(
        move |(admission, affinity, local, a, b)| {
            let route = if local {
                Route::Local { local: targets(v6, &a), everywhere: targets(v6, &b) }
            } else {
                Route::Cluster { targets: targets(v6, &a) }
            };
            let spread = affinity.map_or(Spread::Flow, |_| Spread::Client);
            Frontend {
                owned: true,
                admission,
                spread,
                affinity,
                route,
                draining: Box::default(),
                lost: Box::default(),
            }
        },
    )
}

fn steps(v6: bool) -> impl Strategy<Value = Vec<Step>> {
    // Each Service has addresses of its own: claims on one front end depend on who came first.
    let set =
        (0u8..4, prop::collection::btree_map(0u16..3, fronts(v6), 0..3)).prop_map(|(service, fronts)| {
            let fronts = fronts.into_iter().map(|(last, front)| (u16::from(service) * 10 + last, front));
            Step::Set(service, fronts.collect())
        });
    let step = prop_oneof![
        6 => set,
        2 => (0u8..4).prop_map(Step::Remove),
        1 => Just(Step::Fail),
        4 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 1..20)
}

proptest! {
    /// The kernel in memory refuses whatever the real one refuses, so this also says that every batch is in order.
    #[test]
    fn whatever_the_way_the_table_is_that_of_a_full_load(
        (v6, steps) in any::<bool>().prop_flat_map(|v6| (Just(v6), steps(v6)))
    ) {
        let name = |service: u8| ServiceKey::new("default", format!("s{service}"));
        let mut path = data_path();
        let mut wanted: BTreeMap<u8, Vec<(FrontendKey, Frontend)>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Set(service, fronts) => {
                    let fronts: Vec<_> =
                        fronts.into_iter().map(|(last, front)| (key(v6, last, Protocol::Tcp), front)).collect();
                    path.set_service(&name(service), fronts.clone());
                    wanted.insert(service, fronts);
                }
                Step::Remove(service) => {
                    path.remove_service(&name(service));
                    wanted.remove(&service);
                }
                Step::Fail => path.kernel.fail_next(Errno::EEXIST),
                Step::Commit => {
                    let _ = path.commit();
                }
            }
        }
        let full_before = path.kernel.applied.iter().filter(|batch| matches!(batch.ops[0], Op::AddTable(_))).count();
        if path.commit().is_err() {
            path.commit().unwrap();
        }
        let mut fresh = data_path();
        for (service, fronts) in wanted {
            fresh.set_service(&name(service), fronts);
        }
        fresh.commit().unwrap();
        prop_assert_eq!(substance(table(&path)), substance(table(&fresh)));
        prop_assert_eq!(path.len(), fresh.len());
        prop_assert!(full_before <= path.kernel.applied.len());
    }
}

#[test]
fn what_the_kernel_calls_leads_only_to_chains_that_drop_or_decide() {
    let mut path = data_path();
    path.set_service(
        &web(),
        vec![(key(false, 1, Protocol::Tcp), only(cluster(false, &[1, 2]), &["10.0.0.0/8"]))],
    );
    path.commit().unwrap();
    let table = table(&path);
    let plan = &table.sets["plan"].elements;
    assert_eq!(plan.len(), 4, "n2 and the guard before it; what refuses and what drops");
    for element in plan.values() {
        let Value::Verdict(Verdict::Goto(chain)) = &element.value else { panic!("{element:?}") };
        let last = table.chains[chain].rules.last().and_then(|rule| rule.last());
        let decides = matches!(last, Some(Expr::Verdict(Verdict::Drop) | Expr::Nat { .. }));
        assert!(decides, "{chain}");
    }
    for set in ["svc4", "svc6", "int4", "int6"] {
        for element in table.sets[set].elements.values() {
            let Value::Data(class) = &element.value else { panic!("{element:?}") };
            assert!(plan.values().any(|lead| lead.key == *class), "{element:?} leads nowhere");
        }
    }
}
