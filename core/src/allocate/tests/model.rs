//! Random histories against a model that looks at every address one by one.
//!
//! After each step: no address twice but where it is lawfully shared, none moved without a cause, every counter as
//! counted by hand, nothing leaked, and no refusal where an address could be had.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

mod check;
mod steps;

use check::{Before, check_all, check_choice, check_limits, check_moves};
use steps::{Step, apply_pools, steps};

/// How many histories are tried. `LANDFALL_SOAK` multiplies it.
fn cases() -> u32 {
    let soak = std::env::var("LANDFALL_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1_u32);
    10_000_u32.saturating_mul(soak.max(1))
}

/// What the model knows of a Service that is served.
#[derive(Clone, Debug)]
struct Known {
    created: i64,
    demand: Demand,
    /// Whether it was told of a conflict when it was looked at last.
    told: bool,
}

/// The cluster under test and what the model remembers of it.
#[derive(Default)]
struct Model {
    world: World,
    known: BTreeMap<ServiceKey, Known>,
    /// When each address that rests was freed, and by whom, if that is still known.
    freed: BTreeMap<IpAddr, (i64, Option<ServiceKey>)>,
    /// Steps so far: the Services of an early step are the older ones.
    clock: i64,
}

fn name(service: u8) -> String {
    format!("{}/s{service}", if service.is_multiple_of(2) { "x" } else { "y" })
}

/// Every address of the small world: twelve from `192.0.2.0` and twelve from `2001:db8::` on.
fn universe() -> impl Iterator<Item = IpAddr> {
    let of = |family: Family, first: u128| (first..first + 12).filter_map(move |n| family.address(n));
    of(Family::V4, 0xc000_0200).chain(of(Family::V6, 0x2001_0db8 << 96))
}

impl Model {
    fn serve(&mut self, service: u8, demand: &Demand) -> Result<(), TestCaseError> {
        let name = name(service);
        let before = Before::new(self, &name, demand);
        let decided = self.world.decide(&name, demand);
        prop_assert_eq!(&decided, &self.world.decide(&name, demand), "not deterministic");
        check_choice(self, &before, &decided)?;
        let served = self.world.serve(&name, demand);
        prop_assert_eq!(&served, &decided);
        check_moves(self, &before, &decided)?;
        check_limits(self, &before, &decided)?;
        let told = served.as_ref().is_ok_and(|grant| {
            grant.lacking.iter().any(|lacking| matches!(lacking, Lacking::SharingConflict { .. }))
        });
        let created = self.known.get(&key(&name)).map_or(self.clock, |known| known.created);
        self.note_freed(&before.has, &key(&name));
        if self.world.ledger.held(&key(&name)).is_empty() {
            self.known.remove(&key(&name));
        } else {
            self.known.insert(key(&name), Known { created, demand: demand.clone(), told });
            // Looked at again, nothing moves. (A conflict may be told that the first look has made.)
            let again = self.world.decide(&name, demand);
            prop_assert_eq!(again.map(|grant| grant.addresses), decided.map(|grant| grant.addresses));
        }
        Ok(())
    }

    fn delete(&mut self, service: u8) {
        let key = key(&name(service));
        let has: Vec<_> = self.world.ledger.held(&key).to_vec();
        self.world.delete(&name(service));
        self.note_freed(&has, &key);
        self.known.remove(&key);
    }

    /// Of what the Service had, that rests which nobody holds any more and whose pool says so.
    fn note_freed(&mut self, had: &[IpAddr], key: &ServiceKey) {
        for addr in had.iter().filter(|addr| self.world.ledger.holders(**addr).is_empty()) {
            if self.world.pools.of(*addr).is_some_and(|usable| usable.pool.quarantine_s > 0) {
                self.freed.insert(*addr, (self.world.now, Some(key.clone())));
            }
        }
        let held: Vec<_> = universe().filter(|addr| !self.world.ledger.holders(*addr).is_empty()).collect();
        for addr in held {
            self.freed.remove(&addr);
        }
    }

    /// The clock goes on: what has rested enough is free.
    fn wait(&mut self, seconds: i64) -> Result<(), TestCaseError> {
        self.world.now += seconds * 1000;
        let over = self.world.ledger.expire(&self.world.pools, self.world.now);
        for addr in over {
            let (since, _) = self.freed.remove(&addr).unwrap();
            if let Some(usable) = self.world.pools.of(addr) {
                let rested = self.world.now - since;
                prop_assert!(rested >= i64::from(usable.pool.quarantine_s) * 1000, "{} too early", addr);
            }
        }
        prop_assert!(self.world.ledger.next_expiry().is_none_or(|next| next > self.world.now));
        Ok(())
    }

    /// The ledger is made anew of what the Services say they have.
    fn restart(&mut self, reversed: bool) -> Result<(), TestCaseError> {
        let claim = |(key, known): (&ServiceKey, &Known)| {
            let (key, known) = (key.clone(), known.clone());
            let held = self.world.ledger.held(&key).to_vec();
            held.into_iter().map(move |addr| Claim {
                key: key.clone(),
                created: known.created,
                addr,
                terms: Terms::from(&known.demand),
                contested: known.told,
            })
        };
        let mut claims: Vec<Claim> = self.known.iter().flat_map(claim).collect();
        if reversed {
            claims.reverse();
        }
        let (mut again, lost) = Ledger::rebuild(&self.world.pools, claims);
        prop_assert_eq!(lost, vec![]);
        again.set_reservations(&self.world.pools, self.world.ledger.reservations().to_vec());
        let resting: Vec<_> = self.world.ledger.resting().collect();
        for (addr, until) in resting {
            again.rest(&self.world.pools, addr, until);
        }
        for addr in universe() {
            prop_assert_eq!(again.holders(addr), self.world.ledger.holders(addr), "{}", addr);
        }
        self.world.ledger = again;
        // What rests is written down with its pool; who had it is not.
        let rests: BTreeSet<IpAddr> = self.world.ledger.resting().map(|(addr, _)| addr).collect();
        self.freed.retain(|addr, _| rests.contains(addr));
        self.freed.values_mut().for_each(|(_, last)| *last = None);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn histories_keep_every_promise(steps in steps()) {
        // A3, A4, A46, A53, A61, A66, A67, A68, A69, A70
        let mut model = Model::default();
        apply_pools(&mut model, &[(0, 0), (1, 0)], false);
        for step in steps {
            model.clock += 1;
            match step {
                Step::Serve { service, demand } => model.serve(service, &demand)?,
                Step::Look { service } => {
                    if let Some(known) = model.known.get(&key(&name(service))).cloned() {
                        model.serve(service, &known.demand)?;
                    }
                }
                Step::Label { service, cart } => {
                    model.world.label(&name(service), if cart { &[("app", "cart")] } else { &[] });
                }
                Step::Delete { service } => model.delete(service),
                Step::Pools { list, taken } => apply_pools(&mut model, &list, taken),
                Step::Reserve { list } => model.world.reserve(list),
                Step::Wait { seconds } => model.wait(seconds)?,
                Step::Restart { reversed } => model.restart(reversed)?,
            }
            check_all(&model)?;
        }
    }
}
