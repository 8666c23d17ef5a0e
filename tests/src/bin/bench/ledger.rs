//! The decision alone, without a cluster: does the time of one allocation depend on the size of the pool or on how
//! many addresses are in use?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use landfall_core::addr::Family;
use landfall_core::allocate::{Claimant, allocate};
use landfall_core::demand::{Demand, Families};
use landfall_core::ledger::{Ledger, Terms};
use landfall_core::name::ServiceKey;
use landfall_core::pool::{Pool, Pools};
use landfall_core::selector::Labels;

/// Pools in words and as a range.
const POOLS: [(&str, &str); 4] =
    [("/28", "198.18.0.0/28"), ("/16", "198.18.0.0/16"), ("/8", "10.0.0.0/8"), ("/64", "2001:db8:0:1::/64")];

/// How many addresses are in use meanwhile.
const IN_USE: [usize; 3] = [15, 10_000, 1_000_000];

/// Allocations timed for each line.
const ROUNDS: usize = 100_000;

/// Prints the time of one allocation and release for each pool and number of addresses in use.
pub(crate) fn run() -> anyhow::Result<()> {
    println!("\none decision, with the release of another address before it, microseconds");
    for (size, range) in POOLS {
        for in_use in IN_USE {
            if let Some(took) = measure(range, in_use)? {
                let each = took.as_secs_f64() * 1e6 / f64::from(u32::try_from(ROUNDS)?);
                println!("pool {size:4} {in_use:9} in use   {each:6.2}");
            }
        }
    }
    Ok(())
}

/// The time of all rounds; `None` when the pool is too small.
fn measure(range: &str, in_use: usize) -> anyhow::Result<Option<Duration>> {
    let range: landfall_core::addr::AddrRange = range.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    let family = Family::of(range.first());
    let pools = Pools::new([Pool::new("bench", 1, [range])], BTreeMap::new(), &[]);
    let mut ledger = Ledger::default();
    ledger.set_pools(&pools);
    let capacity = ledger.usage(&"bench".into(), family).available();
    if capacity <= in_use as u128 {
        return Ok(None);
    }
    let demand = Demand::plain(Families::One(family));
    let terms = Terms::from(&demand);
    let labels = Labels::none();
    let serve = |ledger: &mut Ledger, key: &ServiceKey| -> anyhow::Result<()> {
        let who = Claimant {
            key,
            labels: &labels,
            namespace_labels: &labels,
            current: &[],
            home: &[],
            on_removal: &[],
        };
        let grant = allocate(ledger, &pools, who, &demand).map_err(|denied| anyhow::anyhow!("{denied}"))?;
        for addr in &grant.addresses {
            ledger.take(&pools, key, *addr, &terms).map_err(|clash| anyhow::anyhow!("{clash:?}"))?;
        }
        Ok(())
    };
    let keys: Vec<ServiceKey> = (0..in_use).map(|n| ServiceKey::new("bench", format!("web-{n}"))).collect();
    for key in &keys {
        serve(&mut ledger, key)?;
    }
    let begin = Instant::now();
    for round in 0..ROUNDS {
        // Here and there, so that the free addresses lie scattered: 7,919 is prime.
        let key = keys.get(round * 7_919 % keys.len()).context("a key")?;
        ledger.release_all(&pools, key, 0);
        serve(&mut ledger, key)?;
    }
    Ok(Some(begin.elapsed()))
}
