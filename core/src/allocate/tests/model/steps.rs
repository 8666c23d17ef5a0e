//! What can happen.

use proptest::prelude::*;

use super::*;
use crate::pool::SharingScope;

/// One step of a random history.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A Service is made, or asks for something else.
    Serve {
        service: u8,
        demand: Demand,
    },
    /// It is looked at again.
    Look {
        service: u8,
    },
    Label {
        service: u8,
        cart: bool,
    },
    Delete {
        service: u8,
    },
    /// The pools are these now: which ranges, and which other fields.
    Pools {
        list: Vec<(u8, u16)>,
        taken: bool,
    },
    Reserve {
        list: Vec<Reservation>,
    },
    Wait {
        seconds: i64,
    },
    Restart {
        reversed: bool,
    },
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let service = || 0_u8..8;
    let step = prop_oneof![
        10 => (service(), demand()).prop_map(|(service, demand)| Step::Serve { service, demand }),
        4 => service().prop_map(|service| Step::Look { service }),
        1 => (service(), any::<bool>()).prop_map(|(service, cart)| Step::Label { service, cart }),
        4 => service().prop_map(|service| Step::Delete { service }),
        2 => (prop::collection::vec((0_u8..6, any::<u16>()), 0..4), prop::bool::weighted(0.2))
            .prop_map(|(list, taken)| Step::Pools { list, taken }),
        1 => prop::collection::vec(reservation(), 0..3).prop_map(|list| Step::Reserve { list }),
        1 => (0_i64..20).prop_map(|seconds| Step::Wait { seconds }),
        1 => any::<bool>().prop_map(|reversed| Step::Restart { reversed }),
    ];
    prop::collection::vec(step, 0..24)
}

/// An address of the small world; a few of them are in no pool.
fn address() -> impl Strategy<Value = IpAddr> {
    (0_usize..24).prop_map(|n| universe().nth(n).unwrap())
}

fn demand() -> impl Strategy<Value = Demand> {
    let families = (0_u8..6).prop_map(|n| {
        let family = if n.is_multiple_of(2) { Family::V4 } else { Family::V6 };
        match n / 2 {
            0 => Families::One(family),
            1 => Families::Prefer(family),
            _ => Families::Require(family),
        }
    });
    let asks = prop::option::weighted(0.25, address());
    let pool = prop::option::weighted(0.15, 0_u8..4);
    let key = prop::option::weighted(0.5, 0_u8..2);
    (families, asks, pool, key, 1_u8..8).prop_map(|(families, asks, pool, key, ports)| {
        let addresses = asks.into_iter().filter(|addr| families.wants(Family::of(*addr))).collect();
        let request = Request { addresses, pool: pool.map(pool_name) };
        let ports: Vec<u16> = (0..3).filter(|bit| ports >> bit & 1 == 1).map(|bit| 80 + bit).collect();
        let demand = Demand { request: Ok(request), ..Demand::plain(families) };
        super::sharing(demand, key.map_or("", |n| ["k", "q"][usize::from(n)]), &ports)
    })
}

fn reservation() -> impl Strategy<Value = Reservation> {
    let held = prop_oneof![
        2 => address().prop_map(Held::Address),
        1 => (0_u8..3, any::<bool>()).prop_map(|(pool, v4)| {
            let family = if v4 { Family::V4 } else { Family::V6 };
            Held::Any { pool: pool_name(pool), family }
        }),
    ];
    let whom = prop_oneof![
        (0_u8..8).prop_map(|service| Whom::service(&key(&name(service)))),
        Just(Whom { namespace: Some("x".into()), name: None, selector: Some(select("app", "cart")) }),
    ];
    (0_u8..4, 0_i64..3, held, whom).prop_map(|(n, created, held, whom)| Reservation {
        name: format!("r{n}").into(),
        created,
        held,
        whom,
        address: None,
    })
}

fn pool_name(n: u8) -> PoolName {
    PoolName::new(["a", "b", "c", "missing"][usize::from(n)])
}

const RANGES: [&[&str]; 6] = [
    &["192.0.2.0-192.0.2.3", "2001:db8::-2001:db8::3"],
    &["192.0.2.4-192.0.2.6"],
    &["2001:db8::4-2001:db8::6"],
    &["192.0.2.2-192.0.2.8", "2001:db8::5-2001:db8::8"],
    &["192.0.2.1/32", "2001:db8::1/128"],
    &["192.0.2.0/29", "2001:db8::/125"],
];

/// Every bit of `fields` is one thing that differs from what is usual.
fn some_pool(at: usize, (range, fields): (u8, u16)) -> Pool {
    let set = |bit: u16| fields >> bit & 1 == 1;
    let namespaces = if set(0) && set(1) { ["x".into()].into() } else { [].into() };
    Pool {
        auto_assign: !(set(2) && set(3)),
        priority: set(4).then_some(i32::from(fields >> 12)),
        audience: Audience { namespaces, ..Audience::default() },
        quota: (set(5) && set(6)).then_some(u32::from(fields >> 7 & 1) + 1),
        on_removal: if set(8) { OnRemoval::Reassign } else { OnRemoval::Keep },
        quarantine_s: if set(9) { 10 } else { 0 },
        sharing: if set(10) { SharingScope::Cluster } else { SharingScope::Namespace },
        ..pool(["a", "b", "c"][at], i64::from(fields >> 11 & 3), RANGES[usize::from(range)])
    }
}

pub(super) fn apply_pools(model: &mut Model, list: &[(u8, u16)], taken: bool) {
    let taken = taken.then(|| Taken { range: "192.0.2.2/31".parse().unwrap(), by: "the node".into() });
    let taken: Vec<Taken> = taken.into_iter().collect();
    let mut broken = BTreeMap::new();
    let mut valid = Vec::new();
    for (at, fields) in list.iter().enumerate().take(3) {
        let pool = some_pool(at, *fields);
        if fields.1 % 16 == 15 {
            broken.insert(pool.name, "it is broken".to_owned());
        } else {
            valid.push(pool);
        }
    }
    model.world.set(Pools::new(valid, broken, &taken));
}
