//! The rules: what the kernel does with a packet, chain by chain.
//!
//! `docs/dataplane.md` says why.

use std::sync::Arc;

use landfall_core::addr::Family;
use landfall_core::diff::{Outcome, Space};
use landfall_core::frontend::Spread;

mod exprs;

use super::books::lead;
use super::keys::LOCAL_OFFSET;
use super::layout::{Chain, Map, PLAN, Timer};
use crate::nft::model::{
    Base, ChainKind, Ct, Data, Element, Expr, Field, Header, Hook, Into, Meta, Name, NatKind, Op, Refusal,
    Reg, Set, Value, Verdict, ct_state, ct_status,
};
use crate::nft::userdata;
use exprs::{
    addr_len, after_addr, byte, dispatches, door, find, host32, load_destination, load_front, load_port,
    load_source, nfproto, no_priority, of_family, per_family, protocol_is, translate, unchanged,
};

/// Just before kube-proxy's -100: the first chain that translates a connection decides.
const DNAT_PRIORITY: i32 = -101;
/// Just before the 100 at which CNI plugins masquerade.
const SNAT_PRIORITY: i32 = 99;
/// After all translation of destinations, which happens at -100 whatever the priority of a nat chain is.
const GUARD_PRIORITY: i32 = -99;

/// A map that is never empty as long as the table is in force: family -> what happens to the rest.
const LIVE: &str = "live";

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// `RTN_LOCAL`: an address of this host (`linux/rtnetlink.h`).
const ADDRESS_LOCAL: u32 = 2;

/// Writes the operations that make the table, and the chains in it.
#[derive(Debug)]
pub(super) struct Builder {
    seed: u32,
    next_id: u32,
    ops: Vec<Op>,
}

impl Builder {
    /// Begins a list of operations; `seed` goes into every choice of an endpoint.
    #[must_use]
    pub(super) const fn new(seed: u32) -> Self {
        Self { seed, next_id: 0, ops: Vec::new() }
    }

    /// The operations.
    #[must_use]
    pub(super) fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// Adds an operation as it is.
    pub(super) fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// All maps and sets; `size` says how many elements one of them may get.
    pub(super) fn maps(&mut self, size: impl Fn(Map, Family) -> u32) {
        for map in Map::ALL {
            for family in FAMILIES {
                let id = self.id();
                self.ops.push(Op::AddSet(map.declare(family, id, size(map, family))));
            }
        }
        let named = [
            (LIVE, Field::Family, Some(2), Vec::new()),
            (PLAN, Field::Class, None, userdata::from_classes()),
        ];
        for (name, key, size, userdata) in named {
            let id = self.id();
            self.ops.push(Op::AddSet(Set {
                name: Arc::from(name),
                id,
                key: vec![key],
                data: Some(Data::Verdict),
                interval: false,
                dynamic: false,
                anonymous: false,
                size,
                userdata,
            }));
        }
    }

    /// The chains that are always there, except those the kernel calls.
    pub(super) fn fixed_chains(&mut self) {
        self.chain("deny", None);
        self.rule("deny", vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]);

        // Bound to what it already is, so that nobody after us translates it; the guard then refuses it.
        self.chain("rej", None);
        self.rule("rej", no_priority().to_vec());
        for family in FAMILIES {
            let mut rule = of_family(family);
            rule.extend(unchanged(family, NatKind::Destination));
            self.rule("rej", rule);
        }
        let lives = FAMILIES
            .map(|family| Element::of(byte(nfproto(family)), Value::Verdict(Verdict::Goto("rej".into()))));
        self.ops.push(Op::Insert { set: Arc::from(LIVE), id: None, elements: lives.to_vec() });
        let fixed = [Outcome::Reject, Outcome::Drop].map(|outcome| lead(Chain { guard: None, outcome }));
        self.ops.push(Op::Insert { set: Arc::from(PLAN), id: None, elements: fixed.to_vec() });

        self.chain("masq", None);
        self.rule("masq", vec![Expr::Masquerade]);

        self.chain("keep", None);
        for family in FAMILIES {
            let mut rule = of_family(family);
            rule.push(load_source(family, Reg(0)));
            rule.push(load_destination(family, after_addr(family, 0)));
            rule.push(find(&Map::Hairpin.name(family), Reg(0)));
            rule.push(Expr::Masquerade);
            self.rule("keep", rule);
        }
        self.rule(
            "keep",
            vec![Expr::SourceType(Reg(0)), Expr::Equal(Reg(0), host32(ADDRESS_LOCAL)), Expr::Masquerade],
        );
        for family in FAMILIES {
            let mut rule = of_family(family);
            rule.extend(unchanged(family, NatKind::Source));
            self.rule("keep", rule);
        }
        self.own();
    }

    /// What happens to packets that are addressed to one of our addresses after all translation.
    fn own(&mut self) {
        const TCP_FLAGS: u32 = 13;
        const SCTP_FIRST_CHUNK: u32 = 12;
        const SCTP_INIT: u8 = 1;
        const FIN_SYN_RST_ACK: u8 = 0x17;
        const SYN: u8 = 0x02;
        self.chain("own", None);
        let has = |ct, bit: u32| {
            [Expr::Ct(ct, Reg(0)), Expr::Mask(Reg(0), host32(bit)), Expr::Differs(Reg(0), host32(0))]
        };
        let mut translated = has(Ct::Status, ct_status::DESTINATION_NAT).to_vec();
        translated.push(Expr::Verdict(Verdict::Accept));
        self.rule("own", translated);

        let mut invalid = has(Ct::State, ct_state::INVALID).to_vec();
        invalid.extend([Expr::Counter, Expr::Verdict(Verdict::Drop)]);
        self.rule("own", invalid);

        let mut syn = protocol_is(6).to_vec();
        syn.extend([
            Expr::Payload { header: Header::Transport, offset: TCP_FLAGS, len: 1, into: Reg(0) },
            Expr::Mask(Reg(0), byte(FIN_SYN_RST_ACK)),
            Expr::Equal(Reg(0), byte(SYN)),
            Expr::Counter,
            Expr::Reject(Refusal::TcpReset),
        ]);
        self.rule("own", syn);

        let mut udp = protocol_is(17).to_vec();
        udp.extend(has(Ct::State, ct_state::NEW));
        udp.extend([Expr::Counter, Expr::Reject(Refusal::PortUnreachable)]);
        self.rule("own", udp);

        // Only what begins an association (RFC 9260, 5.1): a live one is never refused.
        let mut init = protocol_is(132).to_vec();
        init.extend([
            Expr::Payload { header: Header::Transport, offset: SCTP_FIRST_CHUNK, len: 1, into: Reg(0) },
            Expr::Equal(Reg(0), byte(SCTP_INIT)),
            Expr::Counter,
            Expr::Reject(Refusal::PortUnreachable),
        ]);
        self.rule("own", init);
        self.rule("own", vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]);
    }

    /// The chains the kernel calls. With them the table takes effect.
    pub(super) fn base_chains(&mut self) {
        let nat = |hook, priority| Base { kind: ChainKind::Nat, hook, priority };
        let filter = |hook| Base { kind: ChainKind::Filter, hook, priority: GUARD_PRIORITY };

        for (name, hook) in [("pre", Hook::Prerouting), ("out", Hook::Output)] {
            for family in FAMILIES {
                self.owned(name, hook, family);
                self.doors(name, hook, family);
            }
            self.chain(name, Some(nat(hook, DNAT_PRIORITY)));
            for family in FAMILIES {
                let chain = per_family(name, family);
                self.addressed_to(Map::Vip, name, family, &[Expr::Verdict(Verdict::Goto(chain))]);
            }
            for family in FAMILIES {
                let chain = door(name, family);
                self.addressed_to(Map::Door, name, family, &[Expr::Verdict(Verdict::Goto(chain))]);
            }
        }

        for (name, hook) in [("guard", Hook::Prerouting), ("guard_out", Hook::Output)] {
            self.chain(name, Some(filter(hook)));
            for family in FAMILIES {
                self.addressed_to(Map::Vip, name, family, &[Expr::Verdict(Verdict::Goto(Arc::from("own")))]);
            }
            for family in FAMILIES {
                let mut shut = load_front(family).to_vec();
                shut.push(find(&Map::Shut.name(family), Reg(0)));
                shut.push(Expr::Verdict(Verdict::Goto(Arc::from("own"))));
                self.addressed_to(Map::Door, name, family, &shut);
            }
        }

        self.chain("post", Some(nat(Hook::Postrouting, SNAT_PRIORITY)));
        // Before the decision about the source, which ends the look at the packet.
        for family in FAMILIES {
            self.post(family, Map::Record, Into::Verdict, None);
        }
        for family in FAMILIES.into_iter().chain(FAMILIES) {
            for (set, chain) in [(Map::Masquerade, "masq"), (Map::Keep, "keep")] {
                self.post(family, set, Into::Nothing, Some(Verdict::Goto(chain.into())));
            }
        }
    }

    /// A rule for packets to any of the addresses in a set.
    fn addressed_to(&mut self, set: Map, chain: &str, family: Family, then: &[Expr]) {
        let mut rule = of_family(family);
        rule.push(load_destination(family, Reg(0)));
        rule.push(find(&set.name(family), Reg(0)));
        rule.extend_from_slice(then);
        self.rule(chain, rule);
    }

    /// What happens to connections to our addresses of one family that begin at a hook: front ends, ping, and what
    /// is left, which is treated like a front end without endpoints.
    ///
    /// Dispatch maps are asked twice: at the instant at which an entry is exchanged, a packet can miss the old one and
    /// not see the new one yet. The second look finds it; without it that connection would be refused. When the
    /// whole table is replaced meanwhile, all its maps are empty from one instant on: [`LIVE`] is then empty too,
    /// and the packet is dropped. Its sender tries again and meets the new table.
    fn owned(&mut self, name: &str, hook: Hook, family: Family) {
        let chain = per_family(name, family);
        self.chain(&chain, None);
        let [internal, external] = dispatches(hook, family);
        self.rule(&chain, internal.clone());
        self.rule(&chain, internal);
        self.rule(&chain, external.clone());

        let (protocol, echo_request) = match family {
            Family::V4 => (1, 8),
            Family::V6 => (58, 128),
        };
        let mut ping = of_family(family);
        ping.push(load_destination(family, Reg(0)));
        ping.push(find(&Map::Ping.name(family), Reg(0)));
        ping.extend(protocol_is(protocol));
        ping.extend([
            Expr::Payload { header: Header::Transport, offset: 0, len: 1, into: Reg(0) },
            Expr::Equal(Reg(0), byte(echo_request)),
            Expr::Redirect,
        ]);
        self.rule(&chain, ping);
        self.rule(&chain, external);
        self.rule(
            &chain,
            vec![
                Expr::Meta(Meta::Family, Reg(0)),
                Expr::Lookup { set: Arc::from(LIVE), id: None, key: Reg(0), into: Into::Verdict },
            ],
        );
        self.rule(&chain, vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]);
    }

    /// What happens to connections to addresses that have front ends and are not ours alone: the rest of their ports
    /// is none of our business.
    fn doors(&mut self, name: &str, hook: Hook, family: Family) {
        let chain = door(name, family);
        self.chain(&chain, None);
        for rule in dispatches(hook, family) {
            self.rule(&chain, rule.clone());
            self.rule(&chain, rule);
        }
    }

    /// Looks translated connections up by what they were addressed to first.
    fn post(&mut self, family: Family, map: Map, into: Into, then: Option<Verdict>) {
        let protocols = self.protocols();
        let port = Reg(after_addr(family, 0).0 + 1);
        let mut rule = vec![
            Expr::Ct(Ct::Status, Reg(0)),
            Expr::Mask(Reg(0), host32(ct_status::DESTINATION_NAT)),
            Expr::Differs(Reg(0), host32(0)),
            Expr::Meta(Meta::Protocol, Reg(0)),
            protocols,
            Expr::Ct(Ct::OriginalDestination(family), Reg(0)),
            Expr::Meta(Meta::Protocol, after_addr(family, 0)),
            Expr::Ct(Ct::OriginalPort, port),
            Expr::Lookup { set: map.name(family), id: None, key: Reg(0), into },
        ];
        rule.extend(then.map(Expr::Verdict));
        self.rule("post", rule);
    }

    /// A chain that comes and goes, with its rules.
    pub(super) fn dynamic_chain(&mut self, chain: Chain) {
        let name = chain.name();
        self.ops.push(Op::AddChain(name.clone(), None));
        match (chain.guard, chain.outcome) {
            (Some(bank), _) => {
                let then = chain.behind().map_or_else(|| name.clone(), Chain::name);
                for family in FAMILIES {
                    let mut rule = of_family(family);
                    rule.extend(load_front(family));
                    rule.push(load_source(family, Reg(after_addr(family, 0).0 + 2)));
                    rule.push(find(&Map::Source(bank).name(family), Reg(0)));
                    rule.push(Expr::Verdict(Verdict::Goto(then.clone())));
                    self.ops.push(Op::AddRule(name.clone(), rule));
                }
            }
            (None, Outcome::Forward { space, spread, count }) => {
                self.ops.push(Op::AddRule(name.clone(), no_priority().to_vec()));
                if spread == Spread::Client {
                    for family in FAMILIES {
                        let rule = self.recorded(family);
                        self.ops.push(Op::AddRule(name.clone(), rule));
                    }
                }
                // The second look finds the endpoint that came at the instant at which the first found the old one
                // gone.
                for family in FAMILIES.into_iter().chain(FAMILIES) {
                    let rule = self.forward(family, space, spread, count);
                    self.ops.push(Op::AddRule(name.clone(), rule));
                }
            }
            (None, Outcome::Reject | Outcome::Drop) => {}
        }
        // Nothing may get past: a packet that has met the old dispatch and the new endpoints at the moment of a
        // change finds no endpoint, and would go on untranslated.
        self.ops.push(Op::AddRule(name, vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]));
    }

    /// The chain that records where a client went, for connections whose destination has been translated.
    pub(super) fn timer(&mut self, timer: Timer) {
        let Timer { family, timeout_s } = timer;
        self.ops.push(Op::AddChain(timer.name(), None));
        let protocol = after_addr(family, 0);
        let client = Reg(protocol.0 + 2);
        let endpoint = after_addr(family, client.0);
        let mut rule = vec![Expr::Meta(Meta::Protocol, Reg(0)), self.protocols()];
        rule.extend(of_family(family));
        rule.extend([
            Expr::Ct(Ct::OriginalDestination(family), Reg(0)),
            Expr::Meta(Meta::Protocol, protocol),
            Expr::Ct(Ct::OriginalPort, Reg(protocol.0 + 1)),
            Expr::Ct(Ct::OriginalSource(family), client),
            load_destination(family, endpoint),
            load_port(after_addr(family, endpoint.0)),
            Expr::Renew {
                map: Map::Affinity.name(family),
                key: Reg(0),
                data: endpoint,
                timeout_ms: u64::from(timeout_s) * 1000,
            },
        ]);
        self.ops.push(Op::AddRule(timer.name(), rule));
    }

    /// To where the client went last, if that is on record.
    fn recorded(&mut self, family: Family) -> Vec<Expr> {
        let mut rule = vec![Expr::Meta(Meta::Protocol, Reg(0)), self.protocols()];
        rule.extend(of_family(family));
        rule.extend(load_front(family));
        rule.push(load_source(family, Reg(after_addr(family, 0).0 + 2)));
        rule.extend(translate(family, Map::Affinity));
        rule
    }

    fn forward(&mut self, family: Family, space: Space, spread: Spread, count: u32) -> Vec<Expr> {
        // `nft` wants the protocol named before it believes in a port; the kernel does not care.
        let protocols = self.protocols();
        let index = Reg(after_addr(family, 0).0 + 2);
        let client = Reg(index.0 + 1);
        let mut rule = vec![Expr::Meta(Meta::Protocol, Reg(0)), protocols];
        rule.extend(of_family(family));
        rule.extend(load_front(family));
        rule.push(load_source(family, client));
        let addr_len = addr_len(family);
        let hashed = match spread {
            Spread::Client => addr_len,
            Spread::Flow => {
                let port = after_addr(family, client.0);
                rule.push(Expr::Payload { header: Header::Transport, offset: 0, len: 2, into: port });
                addr_len + 4
            }
        };
        rule.push(Expr::Hash {
            from: client,
            len: hashed,
            into: index,
            modulus: count,
            seed: self.seed,
            offset: match space {
                Space::Everywhere => 0,
                Space::Local => LOCAL_OFFSET,
            },
        });
        rule.extend(translate(family, Map::Endpoint));
        rule
    }

    /// A constant set of the protocols with ports, for the next rule, and the step that looks register 0 up in it.
    fn protocols(&mut self) -> Expr {
        let id = self.id();
        let name: Name = Arc::from("__set%d");
        self.ops.push(Op::AddSet(Set {
            name: name.clone(),
            id,
            key: vec![Field::Protocol],
            data: None,
            interval: false,
            dynamic: false,
            anonymous: true,
            size: Some(3),
            userdata: Vec::new(),
        }));
        let elements = [6, 17, 132].map(|number| Element::of(byte(number), Value::None)).to_vec();
        self.ops.push(Op::Insert { set: name.clone(), id: Some(id), elements });
        Expr::Lookup { set: name, id: Some(id), key: Reg(0), into: Into::Nothing }
    }

    fn chain(&mut self, name: &str, base: Option<Base>) {
        self.ops.push(Op::AddChain(Arc::from(name), base));
    }

    fn rule(&mut self, chain: &str, exprs: Vec<Expr>) {
        self.ops.push(Op::AddRule(Arc::from(chain), exprs));
    }

    const fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }
}
