//! When to announce an address without being asked. Knows no frame, socket or clock: inputs say what happened,
//! outputs say what to send and when to come back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::addr::number;
use crate::elect::mix;

/// Announcements sent one after the other when an address is gained, the first one at once: a single frame may be
/// lost, and switches learn a moved address from any of them.
const ROUNDS: u32 = 5;
/// Time between two of them: five within five seconds.
const SPACING: Duration = Duration::from_millis(1100);

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<S> {
    /// The address is announced from here. The stamp stands for everything the announcement says (hardware
    /// address, interface, the tenure itself): repeated with an equal stamp, nothing is sent; with another one, the
    /// address is announced as if just gained.
    Hold {
        /// The address.
        addr: IpAddr,
        /// What is said about it.
        stamp: S,
    },
    /// The address is no longer announced from here.
    Release {
        /// The address.
        addr: IpAddr,
    },
    /// A [`Output::Wake`] asked for this moment.
    Due {
        /// The address.
        addr: IpAddr,
        /// The token that came with the request.
        token: Token,
    },
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Announce the address on its segment now.
    Announce {
        /// The address.
        addr: IpAddr,
    },
    /// Hand [`Input::Due`] back after this time.
    Wake {
        /// How long from now.
        after: Duration,
        /// The address.
        addr: IpAddr,
        /// To be handed back.
        token: Token,
    },
}

/// Ties a wake-up to the tenure it was asked for: one that comes late finds another token and does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// Decides when the addresses of one node are announced.
#[derive(Debug)]
pub struct Announcer<S> {
    refresh: Duration,
    seed: u64,
    tokens: u64,
    held: BTreeMap<IpAddr, Tenure<S>>,
}

#[derive(Debug)]
struct Tenure<S> {
    stamp: S,
    token: Token,
    sent: u32,
}

impl<S: PartialEq> Announcer<S> {
    /// An announcer that holds nothing. `refresh` is the mean time between two announcements of an address that is
    /// not new any more, zero for none; each is between three and five quarters of it, so that the addresses of a
    /// node, and the nodes (by `seed`), do not speak all at once.
    #[must_use]
    pub const fn new(refresh: Duration, seed: u64) -> Self {
        Self { refresh, seed, tokens: 0, held: BTreeMap::new() }
    }

    /// Takes note of what happened and appends what follows from it.
    pub fn handle(&mut self, input: Input<S>, out: &mut Vec<Output>) {
        match input {
            Input::Hold { addr, stamp } if self.held.get(&addr).is_some_and(|held| held.stamp == stamp) => {}
            Input::Hold { addr, stamp } => {
                self.tokens += 1;
                let token = Token(self.tokens);
                self.held.insert(addr, Tenure { stamp, token, sent: 0 });
                self.announce(addr, out);
            }
            Input::Release { addr } => {
                self.held.remove(&addr);
            }
            Input::Due { addr, token } if self.held.get(&addr).is_some_and(|held| held.token == token) => {
                self.announce(addr, out);
            }
            // Asked for by a tenure that is over.
            Input::Due { .. } => {}
        }
    }

    /// The addresses held.
    pub fn held(&self) -> impl Iterator<Item = IpAddr> {
        self.held.keys().copied()
    }

    fn announce(&mut self, addr: IpAddr, out: &mut Vec<Output>) {
        let (refresh, seed) = (self.refresh, self.seed);
        let Some(tenure) = self.held.get_mut(&addr) else { return };
        out.push(Output::Announce { addr });
        tenure.sent = tenure.sent.saturating_add(1);
        let after = if tenure.sent < ROUNDS { SPACING } else { spread(refresh, seed, addr, tenure.sent) };
        if !after.is_zero() {
            out.push(Output::Wake { after, addr, token: tenure.token });
        }
    }
}

/// Between three and five quarters of `mean`, the same for the same arguments.
fn spread(mean: Duration, seed: u64, addr: IpAddr, round: u32) -> Duration {
    let number = number(addr);
    // Both halves of the address count; what is lost in the cast is in the other half.
    #[allow(clippy::cast_possible_truncation, reason = "the upper half is mixed in separately")]
    let hash = mix(mix(mix(seed ^ u64::from(round)) ^ (number >> 64) as u64) ^ number as u64);
    let thousandths = 750 + u32::try_from(hash % 501).unwrap_or_default();
    mean * thousandths / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REFRESH: Duration = Duration::from_secs(30);
    const BOTH: [&str; 2] = ["192.0.2.100", "2001:db8:50::100"];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Runs an announcer on its own time for so long, and returns when it announced.
    fn play(announcer: &mut Announcer<u8>, input: Input<u8>, total: Duration) -> Vec<Duration> {
        let (mut now, mut sent, mut out) = (Duration::ZERO, Vec::new(), Vec::new());
        let mut wakes: BTreeMap<(Duration, IpAddr), Token> = BTreeMap::new();
        announcer.handle(input, &mut out);
        loop {
            for output in out.drain(..) {
                match output {
                    Output::Announce { .. } => sent.push(now),
                    Output::Wake { after, addr, token } => {
                        wakes.insert((now + after, addr), token);
                    }
                }
            }
            let Some(((at, addr), token)) = wakes.pop_first() else { break };
            if at > total {
                break;
            }
            now = at;
            announcer.handle(Input::Due { addr, token }, &mut out);
        }
        sent
    }

    #[test]
    fn a_gained_address_is_announced_at_once_and_four_times_within_five_seconds() {
        for addr in BOTH.map(ip) {
            let mut announcer = Announcer::new(REFRESH, 7);
            let sent = play(&mut announcer, Input::Hold { addr, stamp: 0 }, Duration::from_secs(5));
            assert_eq!(sent, [0, 1100, 2200, 3300, 4400].map(Duration::from_millis), "{addr}");
        }
    }

    #[test]
    fn then_it_is_repeated_slowly_and_unevenly() {
        for addr in BOTH.map(ip) {
            let mut announcer = Announcer::new(REFRESH, 7);
            let sent = play(&mut announcer, Input::Hold { addr, stamp: 0 }, Duration::from_mins(10));
            let gaps: Vec<_> = sent[4..].windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
            assert!(gaps.len() > 12, "{gaps:?}");
            assert!(gaps.iter().all(|gap| (22_500..=37_500).contains(&gap.as_millis())), "{gaps:?}");
            assert!(gaps.iter().any(|gap| *gap != gaps[0]), "{gaps:?}");
        }
    }

    #[test]
    fn a_refresh_of_zero_is_none() {
        for addr in BOTH.map(ip) {
            let mut announcer = Announcer::new(Duration::ZERO, 7);
            let sent = play(&mut announcer, Input::Hold { addr, stamp: 0 }, Duration::from_hours(1));
            assert_eq!(sent.len(), 5, "{addr}");
        }
    }

    #[test]
    fn an_unchanged_address_causes_nothing_however_often_it_is_confirmed() {
        for addr in BOTH.map(ip) {
            let (mut announcer, mut out) = (Announcer::new(REFRESH, 7), Vec::new());
            announcer.handle(Input::Hold { addr, stamp: 0 }, &mut out);
            out.clear();
            for _ in 0..100 {
                announcer.handle(Input::Hold { addr, stamp: 0 }, &mut out);
            }
            assert_eq!(out, [], "{addr}");
        }
    }

    #[test]
    fn another_stamp_announces_anew() {
        for addr in BOTH.map(ip) {
            let mut announcer = Announcer::new(REFRESH, 7);
            play(&mut announcer, Input::Hold { addr, stamp: 0 }, Duration::from_mins(1));
            let sent = play(&mut announcer, Input::Hold { addr, stamp: 1 }, Duration::from_secs(5));
            assert_eq!(sent.len(), 5, "{addr}");
        }
    }

    #[test]
    fn a_late_wake_up_of_an_earlier_tenure_is_harmless() {
        for addr in BOTH.map(ip) {
            let (mut announcer, mut out) = (Announcer::new(REFRESH, 7), Vec::new());
            announcer.handle(Input::Hold { addr, stamp: 0 }, &mut out);
            let Some(Output::Wake { token, .. }) = out.pop() else { panic!("no wake-up in {out:?}") };
            out.clear();
            announcer.handle(Input::Release { addr }, &mut out);
            announcer.handle(Input::Due { addr, token }, &mut out);
            assert_eq!(out, [], "{addr}: released");
            announcer.handle(Input::Hold { addr, stamp: 0 }, &mut out);
            out.clear();
            announcer.handle(Input::Due { addr, token }, &mut out);
            assert_eq!(out, [], "{addr}: gained again");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_announced_but_what_is_held(
            steps in prop::collection::vec((0u8..4, any::<bool>(), 0u8..3), 0..60),
        ) {
            let (mut announcer, mut out) = (Announcer::new(REFRESH, 7), Vec::new());
            let mut held = std::collections::BTreeSet::new();
            let mut tokens = Vec::new();
            for (step, v6, stamp) in steps {
                let addr = ip(BOTH[usize::from(v6)]);
                match step {
                    0 => { held.insert(addr); announcer.handle(Input::Hold { addr, stamp }, &mut out) }
                    1 => { held.remove(&addr); announcer.handle(Input::Release { addr }, &mut out) }
                    _ => if let Some((addr, token)) = tokens.pop() {
                        announcer.handle(Input::Due { addr, token }, &mut out);
                    }
                }
                for output in out.drain(..) {
                    match output {
                        Output::Announce { addr } => prop_assert!(held.contains(&addr)),
                        Output::Wake { addr, token, .. } => tokens.insert(0, (addr, token)),
                    }
                }
                prop_assert_eq!(announcer.held().collect::<Vec<_>>(), held.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
