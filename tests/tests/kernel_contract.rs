//! One contract, two kernels: the real one in a fresh network namespace, and the one in memory.
//!
//! Root is needed for the real one; without it the tests fail.

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroU16;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use landfall_core::addr::{AddrRange, Family};
use landfall_core::endpoints::Target;
use landfall_core::frontend::{Admission, Frontend, FrontendKey, Route, Spread};
use landfall_core::name::ServiceKey;
use landfall_core::service::Protocol;
use landfall_speaker::datapath::DataPath;
use landfall_speaker::fake::FakeKernel;
use landfall_speaker::kernel::{Applied, ApplyError, Inspection, Kernel, Owner};
use landfall_speaker::nft;
use landfall_speaker::nft::conntrack::{Gone, Kept, Stay};
use landfall_speaker::nft::model::{
    Base, Batch, Bytes, ChainKind, Data, Element, Expr, Field, Header, Hook, Into, Life, Meta, Op, Reg, Set,
    TableFlags, Value, Verdict,
};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

const TABLE: &str = "landfall";

/// A kernel, and somebody else who changes things in it.
trait Subject: Kernel {
    /// Somebody else's batch.
    fn stranger(&mut self, batch: &Batch) -> Result<(), ApplyError>;
}

impl Subject for FakeKernel {
    fn stranger(&mut self, batch: &Batch) -> Result<(), ApplyError> {
        Self::stranger(self, batch)
    }
}

impl Subject for nft::Kernel {
    fn stranger(&mut self, batch: &Batch) -> Result<(), ApplyError> {
        Self::open_without_ownership()?.apply(batch).map(drop)
    }
}

/// Runs one promise against both kernels, with and without ownership of tables (which kernels before 6.9 do not
/// have).
#[cfg(test)]
fn holds(promise: impl Fn(&mut dyn Subject) + Send + Sync) {
    promise(&mut FakeKernel::new());
    promise(&mut FakeKernel::without_ownership());
    let ended = thread::scope(|scope| {
        let real = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own (are you root?)");
            promise(&mut nft::Kernel::open().expect("NETLINK_NETFILTER"));
            unshare(CloneFlags::CLONE_NEWNET).expect("another one");
            promise(&mut nft::Kernel::open_without_ownership().expect("NETLINK_NETFILTER"));
        });
        real.join()
    });
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

fn batch(ops: Vec<Op>) -> Batch {
    Batch { table: TABLE.into(), ops }
}

fn set(name: &str, id: u32, size: Option<u32>) -> Op {
    Op::AddSet(Set {
        name: name.into(),
        id,
        key: vec![Field::Ipv4],
        data: None,
        interval: false,
        dynamic: false,
        anonymous: false,
        size,
        userdata: Vec::new(),
    })
}

fn vmap(name: &str, id: u32) -> Op {
    Op::AddSet(Set {
        name: name.into(),
        id,
        key: vec![Field::Ipv4],
        data: Some(Data::Verdict),
        interval: false,
        dynamic: false,
        anonymous: false,
        size: Some(16),
        userdata: Vec::new(),
    })
}

fn ranges(name: &str, id: u32) -> Op {
    Op::AddSet(Set {
        name: name.into(),
        id,
        key: vec![Field::Ipv4, Field::Ipv4],
        data: None,
        interval: true,
        dynamic: false,
        anonymous: false,
        size: None,
        userdata: Vec::new(),
    })
}

fn addr(last: u8) -> Bytes {
    Bytes::EMPTY.with(&[192, 0, 2, last])
}

fn member(last: u8) -> Element {
    Element::of(addr(last), Value::None)
}

fn leads(last: u8, chain: &str) -> Element {
    Element::of(addr(last), Value::Verdict(Verdict::Goto(chain.into())))
}

fn range(key: u8, first: u8, last: u8) -> Element {
    let with = |end: u8| addr(key).with(&[10, 0, 0, end]);
    Element {
        key: with(first),
        last: Some(Box::new(with(last))),
        range_end: false,
        comment: None,
        value: Value::None,
        life: None,
    }
}

fn insert(set: &str, elements: Vec<Element>) -> Op {
    Op::Insert { set: set.into(), id: None, elements }
}

fn remove(set: &str, elements: Vec<Element>) -> Op {
    Op::Remove { set: set.into(), elements }
}

/// A table with one set of four, a verdict map, a set of ranges, a chain and a base chain.
fn table(kernel: &dyn Kernel) -> Vec<Op> {
    vec![
        Op::AddTable(kernel.table_flags()),
        set("s", 1, Some(4)),
        vmap("v", 2),
        ranges("r", 3),
        Op::AddChain("c".into(), None),
        Op::AddChain("b".into(), Some(Base { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: 0 })),
    ]
}

#[cfg(test)]
#[track_caller]
fn refused(kernel: &mut dyn Kernel, ops: Vec<Op>, at: usize, with: Errno) {
    match kernel.apply(&batch(ops)) {
        Err(ApplyError::Rejected { index, source, .. }) => {
            assert_eq!((index, source.raw_os_error()), (at, Some(with as i32)), "{source}");
        }
        other => panic!("expected {with} at {at}, got {other:?}"),
    }
}

#[cfg(test)]
#[track_caller]
fn accepted(kernel: &mut dyn Kernel, ops: Vec<Op>) {
    kernel.apply(&batch(ops)).expect("the batch is in order");
}

#[test]
fn a_table_comes_with_its_first_batch_and_goes_when_deleted() {
    holds(|kernel| {
        assert_eq!(kernel.inspect(TABLE).unwrap().table, None);
        let ops = table(kernel);
        accepted(kernel, ops);
        assert!(kernel.inspect(TABLE).unwrap().table.is_some());
        accepted(kernel, vec![Op::DeleteTable]);
        assert_eq!(kernel.inspect(TABLE).unwrap().table, None);
        refused(kernel, vec![Op::DeleteTable], 0, Errno::ENOENT);
    });
}

#[test]
fn a_batch_that_fails_changes_nothing() {
    // S138
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        let before = kernel.inspect(TABLE).unwrap();
        refused(
            kernel,
            vec![insert("s", vec![member(1)]), Op::AddChain("d".into(), None), remove("s", vec![member(9)])],
            2,
            Errno::ENOENT,
        );
        assert_eq!(kernel.inspect(TABLE).unwrap(), before, "neither the table nor the generation");
        accepted(kernel, vec![insert("s", vec![member(1)]), Op::AddChain("d".into(), None)]);
    });
}

#[test]
fn every_batch_is_a_generation_and_a_new_table_a_new_handle() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops.clone());
        let first = kernel.inspect(TABLE).unwrap();
        accepted(kernel, vec![insert("s", vec![member(1)])]);
        let second = kernel.inspect(TABLE).unwrap();
        assert_ne!(first.generation, second.generation);
        assert_eq!(first.table, second.table, "elements do not count");
        let mut anew = vec![Op::DeleteTable];
        anew.extend(ops);
        accepted(kernel, anew);
        let third = kernel.inspect(TABLE).unwrap();
        assert_ne!(second.table.unwrap().handle, third.table.unwrap().handle);
        accepted(kernel, vec![Op::AddChain("d".into(), None)]);
        assert_ne!(kernel.inspect(TABLE).unwrap().table, third.table, "a chain more counts");
    });
}

#[test]
fn elements_are_neither_inserted_twice_nor_removed_when_missing() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        accepted(kernel, vec![insert("s", vec![member(1), member(2)])]);
        refused(kernel, vec![insert("s", vec![member(3), member(2)])], 0, Errno::EEXIST);
        refused(kernel, vec![remove("s", vec![member(1), member(3)])], 0, Errno::ENOENT);
        accepted(kernel, vec![remove("s", vec![member(1), member(2)])]);
        refused(kernel, vec![remove("s", vec![member(1)])], 0, Errno::ENOENT);
    });
}

#[test]
fn an_element_is_exchanged_within_a_batch() {
    holds(|kernel| {
        let mut ops = table(kernel);
        ops.extend([Op::AddChain("d".into(), None), insert("v", vec![leads(1, "c")])]);
        accepted(kernel, ops);
        accepted(kernel, vec![remove("v", vec![leads(1, "c")]), insert("v", vec![leads(1, "d")])]);
        accepted(kernel, vec![Op::DeleteChain("c".into())]);
        refused(kernel, vec![Op::DeleteChain("d".into())], 0, Errno::EBUSY);
    });
}

#[test]
fn a_set_takes_no_more_than_its_size() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        accepted(kernel, vec![insert("s", (1..=4).map(member).collect())]);
        refused(kernel, vec![insert("s", vec![member(5)])], 0, Errno::ENFILE);
    });
}

#[test]
fn nothing_leads_to_what_is_not_there() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        refused(kernel, vec![insert("missing", vec![member(1)])], 0, Errno::ENOENT);
        refused(kernel, vec![insert("v", vec![leads(1, "missing")])], 0, Errno::ENOENT);
        let goto = |chain: &str| vec![Expr::Verdict(Verdict::Goto(chain.into()))];
        refused(kernel, vec![Op::AddRule("c".into(), goto("missing"))], 0, Errno::ENOENT);
        refused(kernel, vec![Op::AddRule("missing".into(), goto("c"))], 0, Errno::ENOENT);
        let lookup = |set: &str| {
            vec![
                Expr::Meta(Meta::Protocol, Reg(0)),
                Expr::Lookup { set: set.into(), id: None, key: Reg(0), into: Into::Nothing },
            ]
        };
        refused(kernel, vec![Op::AddRule("c".into(), lookup("missing"))], 0, Errno::ENOENT);
        refused(kernel, vec![Op::DeleteChain("missing".into())], 0, Errno::ENOENT);
    });
}

#[test]
fn a_chain_goes_with_its_rules_but_not_while_something_leads_to_it() {
    holds(|kernel| {
        let mut ops = table(kernel);
        ops.extend([
            Op::AddChain("d".into(), None),
            Op::AddRule("d".into(), vec![Expr::Counter, Expr::Verdict(Verdict::Goto("c".into()))]),
            insert("v", vec![leads(1, "d")]),
        ]);
        accepted(kernel, ops);
        refused(kernel, vec![Op::DeleteChain("c".into())], 0, Errno::EBUSY);
        refused(kernel, vec![Op::DeleteChain("d".into())], 0, Errno::EBUSY);
        accepted(
            kernel,
            vec![remove("v", vec![leads(1, "d")]), Op::DeleteChain("d".into()), Op::DeleteChain("c".into())],
        );
    });
}

#[test]
fn names_are_given_once() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        refused(kernel, vec![set("s", 9, None)], 0, Errno::EEXIST);
        refused(kernel, vec![Op::AddChain("c".into(), None)], 0, Errno::EEXIST);
        let again = Op::AddTable(kernel.table_flags());
        accepted(kernel, vec![again]);
    });
}

#[test]
fn ranges_do_not_overlap() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        accepted(kernel, vec![insert("r", vec![range(1, 10, 20), range(1, 30, 40), range(2, 15, 35)])]);
        refused(kernel, vec![insert("r", vec![range(1, 10, 20)])], 0, Errno::EEXIST);
        accepted(kernel, vec![remove("r", vec![range(1, 10, 20)]), insert("r", vec![range(1, 10, 19)])]);
    });
}

#[test]
fn an_anonymous_set_lives_and_dies_with_its_rule() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        let before = kernel.inspect(TABLE).unwrap().table.unwrap().uses;
        let protocols = Op::AddSet(Set {
            name: "__set%d".into(),
            id: 7,
            key: vec![Field::Protocol],
            data: None,
            interval: false,
            dynamic: false,
            anonymous: true,
            size: Some(2),
            userdata: Vec::new(),
        });
        let byte = |value: u8| Element::of(Bytes::new(&[value]).unwrap(), Value::None);
        accepted(
            kernel,
            vec![
                Op::AddChain("d".into(), None),
                protocols,
                Op::Insert { set: "__set%d".into(), id: Some(7), elements: vec![byte(6), byte(17)] },
                Op::AddRule(
                    "d".into(),
                    vec![
                        Expr::Meta(Meta::Protocol, Reg(0)),
                        Expr::Lookup { set: "__set%d".into(), id: Some(7), key: Reg(0), into: Into::Nothing },
                        Expr::Counter,
                    ],
                ),
            ],
        );
        assert_eq!(kernel.inspect(TABLE).unwrap().table.unwrap().uses, before + 1, "only the chain counts");
        accepted(kernel, vec![Op::DeleteChain("d".into())]);
        assert_eq!(kernel.inspect(TABLE).unwrap().table.unwrap().uses, before);
    });
}

#[test]
fn a_table_of_this_process_belongs_to_it() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        let owner = kernel.inspect(TABLE).unwrap().table.unwrap().owner;
        let expected = if kernel.table_flags().owner { Owner::Us } else { Owner::Anybody };
        assert_eq!(owner, expected);
    });
}

#[test]
fn forgetting_connections_that_are_not_there_is_no_error() {
    holds(|kernel| {
        for vip in ["192.0.2.100", "2001:db8:50::100"] {
            for protocol in Protocol::ALL {
                let port = NonZeroU16::new(53).unwrap();
                let front = FrontendKey { addr: vip.parse().unwrap(), protocol, port };
                let stay = Stay { endpoints: Kept::Only(BTreeSet::new()), sources: Admission::Nobody };
                kernel.forget(&Gone::from([(front, stay)])).unwrap();
            }
        }
    });
}

#[test]
fn an_error_says_what_was_tried_on_what() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        let error = kernel.apply(&batch(vec![remove("s", vec![member(1)])])).unwrap_err();
        let said = error.to_string();
        assert!(
            said.starts_with(
                "the kernel rejected operation 0 of the batch (remove from set s the key c0000201"
            ),
            "{said}"
        );
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.and_then(io::Error::raw_os_error), Some(Errno::ENOENT as i32));
    });
}

#[test]
fn an_address_translation_rule_is_taken_in_both_families() {
    use landfall_speaker::nft::model::NatKind;
    holds(|kernel| {
        let mut ops = vec![
            Op::AddTable(kernel.table_flags()),
            Op::AddChain(
                "n".into(),
                Some(Base { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -101 }),
            ),
        ];
        for (family, number, offset, len) in [(Family::V4, 2, 16, 4), (Family::V6, 10, 24, 16)] {
            ops.push(Op::AddRule(
                "n".into(),
                vec![
                    Expr::Meta(Meta::Family, Reg(0)),
                    Expr::Equal(Reg(0), Bytes::new(&[number]).unwrap()),
                    Expr::Payload { header: Header::Network, offset, len, into: Reg(0) },
                    Expr::Nat { kind: NatKind::Destination, family, addr: Reg(0), port: None },
                ],
            ));
        }
        accepted(kernel, ops);
    });
}

/// A map whose elements go when their time is over.
fn timed(name: &str, id: u32, size: u32) -> Op {
    Op::AddSet(Set {
        name: name.into(),
        id,
        key: vec![Field::Ipv4],
        data: Some(Data::Fields(vec![Field::Ipv4])),
        interval: false,
        dynamic: true,
        anonymous: false,
        size: Some(size),
        userdata: Vec::new(),
    })
}

fn lasts(last: u8, timeout_ms: u64, left_ms: u64) -> Element {
    let life = Life { timeout_ms, left_ms };
    Element { life: Some(Box::new(life)), ..Element::of(addr(last), Value::Data(addr(100))) }
}

#[test]
fn the_elements_of_a_map_are_listed_with_the_time_they_have_left() {
    holds(|kernel| {
        assert_eq!(kernel.elements(TABLE, "t").unwrap(), [], "there is no table");
        let mut ops = table(kernel);
        ops.push(timed("t", 4, 3000));
        accepted(kernel, ops);
        assert_eq!(kernel.elements(TABLE, "t").unwrap(), []);
        assert_eq!(kernel.elements(TABLE, "missing").unwrap(), []);
        let hour = 3_600_000;
        accepted(
            kernel,
            vec![insert("t", vec![lasts(1, hour, hour), lasts(2, hour, hour / 2), lasts(3, 2 * hour, hour)])],
        );
        let mut found = kernel.elements(TABLE, "t").unwrap();
        found.sort_unstable_by_key(|element| element.key);
        assert_eq!(found.len(), 3);
        for (element, (last, timeout, left)) in
            found.iter().zip([(1, hour, hour), (2, hour, hour / 2), (3, 2 * hour, hour)])
        {
            assert_eq!((element.key, &element.value), (addr(last), &Value::Data(addr(100))));
            let life = element.life.as_deref().expect("it goes some time");
            assert_eq!(life.timeout_ms, timeout);
            assert!(life.left_ms <= left && life.left_ms > left - 60_000, "{life:?}");
        }
        // What was listed is taken back, as it is when the table is replaced.
        accepted(kernel, vec![remove("t", found.clone())]);
        assert_eq!(kernel.elements(TABLE, "t").unwrap(), []);
        accepted(kernel, vec![insert("t", found)]);
        assert_eq!(kernel.elements(TABLE, "t").unwrap().len(), 3);
    });
}

#[test]
fn the_kernel_has_what_is_needed() {
    holds(|kernel| nft::probe::check(kernel).unwrap());
}

#[test]
fn a_trial_says_what_would_be_and_changes_nothing() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        let before = kernel.inspect(TABLE).unwrap();
        kernel
            .would_take(&batch(vec![insert("s", vec![member(1)]), Op::AddChain("d".into(), None)]))
            .unwrap();
        let error = kernel.would_take(&batch(vec![remove("s", vec![member(1)])])).unwrap_err();
        assert!(matches!(error, ApplyError::Rejected { index: 0, .. }) && error.is_verdict(), "{error:?}");
        assert_eq!(kernel.inspect(TABLE).unwrap(), before, "not even the generation");
        accepted(kernel, vec![insert("s", vec![member(1)])]);
    });
}

#[test]
fn what_a_stranger_does_to_our_table_is_refused_or_seen() {
    holds(|kernel| {
        let changes = [
            insert("s", vec![member(9)]),
            remove("s", vec![member(1)]),
            Op::AddRule("c".into(), vec![Expr::Counter]),
            Op::AddChain("d".into(), None),
            Op::DeleteChain("c".into()),
            Op::DeleteTable,
        ];
        for change in changes {
            if kernel.inspect(TABLE).unwrap().table.is_some() {
                accepted(kernel, vec![Op::DeleteTable]);
            }
            let mut ops = table(kernel);
            ops.push(insert("s", vec![member(1)]));
            accepted(kernel, ops);
            let before = kernel.inspect(TABLE).unwrap();
            assert!(!before.foreign, "{change}");
            match kernel.stranger(&batch(vec![change.clone()])) {
                Ok(()) => {
                    assert!(!kernel.table_flags().owner, "{change}");
                    assert!(kernel.inspect(TABLE).unwrap().foreign, "{change}");
                }
                Err(error) => {
                    assert!(kernel.table_flags().owner, "{change}: {error}");
                    assert_eq!(kernel.inspect(TABLE).unwrap().table, before.table, "{change}");
                }
            }
        }
    });
}

#[test]
fn a_list_that_takes_many_messages_is_complete() {
    holds(|kernel| {
        let mut ops = table(kernel);
        ops.push(timed("t", 4, 1 << 16));
        let elements: Vec<Element> = (0..20_000_u32)
            .map(|number| Element {
                key: Bytes::EMPTY.with(&number.to_be_bytes()),
                ..lasts(1, 60_000, 60_000)
            })
            .collect();
        ops.push(insert("t", elements));
        accepted(kernel, ops);
        // While the kernel still makes room for them, a list may lack some.
        let begun = Instant::now();
        let listed = |kernel: &mut dyn Kernel| -> BTreeSet<Bytes> {
            kernel.elements(TABLE, "t").unwrap().into_iter().map(|element| element.key).collect()
        };
        while listed(kernel).len() < 20_000 {
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", listed(kernel).len());
        }
        accepted(kernel, vec![Op::DeleteTable]);
    });
}

#[test]
fn what_a_stranger_does_elsewhere_is_none_of_our_business() {
    holds(|kernel| {
        let ops = table(kernel);
        accepted(kernel, ops);
        let other = Batch {
            table: "other".into(),
            ops: vec![Op::AddTable(TableFlags::default()), set("s", 1, None)],
        };
        kernel.stranger(&other).unwrap();
        accepted(kernel, vec![insert("s", vec![member(1)])]);
        assert!(!kernel.inspect(TABLE).unwrap().foreign);
    });
}

#[test]
fn a_large_batch_of_our_own_is_not_foreign() {
    holds(|kernel| {
        let mut ops = table(kernel);
        ops.push(set("large", 9, Some(1 << 17)));
        let numbers = (0..100_000_u32).map(|n| Element::of(Bytes::EMPTY.with(&n.to_be_bytes()), Value::None));
        ops.push(insert("large", numbers.collect()));
        accepted(kernel, ops);
        assert!(!kernel.inspect(TABLE).unwrap().foreign);
    });
}

/// Any kernel under a data path.
#[derive(Debug)]
struct Under<'a>(&'a mut dyn Subject);

impl Kernel for Under<'_> {
    fn apply(&mut self, batch: &Batch) -> Result<Applied, ApplyError> {
        self.0.apply(batch)
    }

    fn inspect(&mut self, table: &str) -> Result<Inspection, ApplyError> {
        self.0.inspect(table)
    }

    fn elements(&mut self, table: &str, set: &str) -> Result<Vec<Element>, ApplyError> {
        self.0.elements(table, set)
    }

    fn table_flags(&self) -> TableFlags {
        self.0.table_flags()
    }

    fn grace() {
        nft::Kernel::grace();
    }

    fn forget(&mut self, gone: &Gone) -> Result<(), ApplyError> {
        self.0.forget(gone)
    }
}

/// A Service with one front end; a bad one has the same range twice.
#[cfg(test)]
fn stage(path: &mut DataPath<Under<'_>>, name: &str, vip: &str, pod: &str, bad: bool) -> FrontendKey {
    let (addr, port) = (pod.parse().unwrap(), NonZeroU16::new(80).unwrap());
    let range = AddrRange::new(addr, addr).unwrap();
    let front = Frontend {
        owned: true,
        admission: if bad { Admission::Ranges(Arc::from([range, range])) } else { Admission::Anyone },
        spread: Spread::Flow,
        route: Route::Cluster { targets: Box::from([Target { addr, port }]) },
        affinity: None,
        draining: Box::default(),
        lost: Box::default(),
    };
    let key = FrontendKey { addr: vip.parse().unwrap(), protocol: Protocol::Tcp, port };
    path.set_service(&ServiceKey::new("shop", name), vec![(key, front)]);
    key
}

#[test]
fn one_bad_service_is_found_and_the_others_go_in() {
    // S139
    holds(|kernel| {
        for (net, pod) in [("192.0.2.", "10.0.0.5"), ("2001:db8::", "fd00::5")] {
            let mut path = DataPath::new(Under(&mut *kernel), 7);
            let keys: Vec<_> = (1..50)
                .map(|n| stage(&mut path, &format!("s{n}"), &format!("{net}{n}"), pod, n == 20))
                .collect();
            path.commit().unwrap();
            let refused: Vec<_> = path.refused().keys().cloned().collect();
            assert_eq!(refused, [ServiceKey::new("shop", "s20")], "{:?}", path.refused());
            assert_eq!(keys.iter().filter(|key| path.owns(key)).count(), 48);
            // The same in an update, and mended.
            stage(&mut path, "s20", &format!("{net}20"), pod, false);
            stage(&mut path, "s30", &format!("{net}30"), pod, true);
            path.commit().unwrap();
            let refused: Vec<_> = path.refused().keys().cloned().collect();
            assert_eq!(refused, [ServiceKey::new("shop", "s30")]);
            assert!(path.verify().unwrap());
        }
    });
}

#[test]
fn time_and_rules_that_renew_are_for_maps_that_are_made_for_them() {
    holds(|kernel| {
        let mut ops = table(kernel);
        let plain = Op::AddSet(Set {
            name: "p".into(),
            id: 5,
            key: vec![Field::Ipv4],
            data: Some(Data::Fields(vec![Field::Ipv4])),
            interval: false,
            dynamic: false,
            anonymous: false,
            size: Some(4),
            userdata: Vec::new(),
        });
        ops.extend([timed("t", 4, 2), plain]);
        accepted(kernel, ops);
        refused(kernel, vec![insert("p", vec![lasts(1, 60_000, 60_000)])], 0, Errno::EINVAL);
        let renew = |map: &str| {
            let load = |offset, into| Expr::Payload { header: Header::Network, offset, len: 4, into };
            vec![
                Expr::Meta(Meta::Family, Reg(0)),
                Expr::Equal(Reg(0), Bytes::new(&[2]).unwrap()),
                load(12, Reg(0)),
                load(16, Reg(1)),
                Expr::Renew { map: map.into(), key: Reg(0), data: Reg(1), timeout_ms: 60_000 },
            ]
        };
        accepted(kernel, vec![Op::AddRule("c".into(), renew("t"))]);
        refused(kernel, vec![Op::AddRule("c".into(), renew("p"))], 0, Errno::EOPNOTSUPP);
        refused(kernel, vec![Op::AddRule("c".into(), renew("missing"))], 0, Errno::ENOENT);
        accepted(kernel, vec![insert("t", vec![lasts(1, 60_000, 60_000), lasts(2, 60_000, 60_000)])]);
        refused(kernel, vec![insert("t", vec![lasts(3, 60_000, 60_000)])], 0, Errno::ENFILE);
    });
}

#[test]
fn a_chain_that_comes_back_counts_as_led_to() {
    holds(|kernel| {
        let mut ops = table(kernel);
        let jump = |chain: &str| Value::Verdict(Verdict::Jump(chain.into()));
        ops.extend([Op::AddChain("d".into(), None), insert("v", vec![Element::of(addr(1), jump("d"))])]);
        accepted(kernel, ops);
        refused(kernel, vec![insert("v", vec![Element::of(addr(2), jump("missing"))])], 0, Errno::ENOENT);
        refused(kernel, vec![Op::DeleteChain("d".into())], 0, Errno::EBUSY);
        accepted(
            kernel,
            vec![remove("v", vec![Element::of(addr(1), jump("d"))]), Op::DeleteChain("d".into())],
        );
    });
}

#[test]
fn a_map_that_fills_up_is_exchanged_for_a_larger_one() {
    holds(|kernel| {
        for (net, pod) in [("10.1.", "10.0.0.5"), ("2001:db8::", "fd00::5")] {
            let mut path = DataPath::new(Under(&mut *kernel), 7);
            path.commit().unwrap();
            let mut full = 0;
            for n in 0..800 {
                let last =
                    if net.contains(':') { format!("{n:x}") } else { format!("{}.{}", n / 250, n % 250 + 1) };
                stage(&mut path, &format!("s{n}"), &format!("{net}{last}"), pod, false);
                full += usize::from(path.commit_ready().unwrap().full);
            }
            assert_eq!((full, path.len()), (1, 800), "once, at three quarters of 1024");
        }
    });
}
