//! What becomes of a packet in a chain: a small part of the kernel's evaluation, with a third answer for what is not
//! known.

use std::collections::BTreeMap;

use landfall_core::addr::Family;
use landfall_core::name::Iface;

use super::packet::Packet;
use super::read::{BaseChain, Reader, Rule};
use crate::nft::numbers::{NF_ACCEPT, NF_DROP, NFT_GOTO, NFT_JUMP, NFT_RETURN, elem};
use crate::nft::wire::{Attrs, array};

/// Chains that jump to each other deeper than the kernel allows (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

/// What becomes of a packet, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// It goes on.
    Passes,
    /// It depends on what is not known here.
    Unclear,
    /// It is dropped or refused.
    Dropped,
}

/// The ways in which a chain or a rule can end, any number of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ends(u8);

impl Ends {
    const ACCEPT: Self = Self(1);
    const DROP: Self = Self(2);
    /// The next rule is looked at.
    const NEXT: Self = Self(4);
    /// The chain is left.
    const LEAVE: Self = Self(8);
    const ANY: Self = Self(15);

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    const fn can(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Whether something is so: `None` when that is not known.
type Maybe = Option<bool>;

/// What the registers hold while a rule is looked at; a missing or empty one may hold anything.
type Registers = BTreeMap<u32, Option<Vec<u8>>>;

/// Judges one packet in one base chain.
pub(super) struct Judge<'a> {
    reader: &'a mut Reader,
    chain: &'a BaseChain,
    packet: &'a Packet,
}

impl<'a> Judge<'a> {
    pub(super) const fn new(reader: &'a mut Reader, chain: &'a BaseChain, packet: &'a Packet) -> Self {
        Self { reader, chain, packet }
    }

    pub(super) fn fate(&mut self) -> Fate {
        let mut ends = self.through(&self.chain.name.clone(), 0);
        if ends.can(Ends::LEAVE.or(Ends::NEXT)) {
            ends = ends.or(if self.chain.drops { Ends::DROP } else { Ends::ACCEPT });
        }
        match (ends.can(Ends::ACCEPT), ends.can(Ends::DROP)) {
            (_, false) => Fate::Passes,
            (false, true) => Fate::Dropped,
            (true, true) => Fate::Unclear,
        }
    }

    /// How a chain can end; its end counts as leaving it.
    fn through(&mut self, name: &str, depth: usize) -> Ends {
        let Some(rules) = self.reader.rules(self.chain.family, &self.chain.table, name) else {
            return Ends::ANY;
        };
        let mut ends = Ends::default();
        for rule in &rules {
            let one = self.rule(rule, depth);
            ends = ends.or(one.without(Ends::NEXT));
            if !one.can(Ends::NEXT) {
                return ends;
            }
        }
        ends.or(Ends::LEAVE)
    }

    fn rule(&mut self, rule: &Rule, depth: usize) -> Ends {
        let mut registers = Registers::new();
        // Whether the rule is still certain to apply.
        let mut certain = true;
        for (name, data) in &rule.0 {
            let attrs = Attrs::new(data);
            let step = self.expression(name, &attrs, &mut registers, depth);
            match step {
                Step::Matches(Some(true)) => {}
                Step::Matches(Some(false)) => {
                    return Ends::NEXT;
                }
                Step::Matches(None) => certain = false,
                Step::Ends(ends) if certain => return ends,
                Step::Ends(ends) => return ends.or(Ends::NEXT),
            }
        }
        Ends::NEXT
    }

    fn expression(&mut self, name: &str, attrs: &Attrs<'_>, registers: &mut Registers, depth: usize) -> Step {
        let matched = |found: Maybe| Step::Matches(found);
        match name {
            "meta" => self.load(attrs, 1, registers, |judge| judge.meta(attrs.be32(2)?)),
            "ct" => self.load(attrs, 1, registers, |judge| judge.ct(attrs)),
            "payload" => self.load(attrs, 1, registers, |judge| judge.payload(attrs)),
            "bitwise" => {
                let value = bitwise(attrs, registers);
                registers.insert(attrs.be32(2).unwrap_or_default(), value);
                Step::Matches(Some(true))
            }
            "cmp" => matched(compare(attrs, registers)),
            "lookup" => self.lookup(attrs, registers, depth),
            "immediate" => {
                let data = attrs.nest(2);
                if let Some(verdict) = data.as_ref().and_then(|data| data.nest(elem::DATA_VERDICT)) {
                    return Step::Ends(self.verdict(&verdict, depth));
                }
                let value = data.and_then(|data| data.find(elem::DATA_VALUE)).map(<[u8]>::to_vec);
                registers.insert(attrs.be32(1).unwrap_or_default(), value);
                Step::Matches(Some(true))
            }
            "reject" => Step::Ends(Ends::DROP),
            "match" => matched(self.extension(attrs)),
            "target" => target(attrs.text(1).unwrap_or_default()),
            // They look at nothing and end nothing.
            "counter" | "log" | "notrack" | "last" | "flow_offload" => matched(Some(true)),
            _ => matched(None),
        }
    }

    /// Loads a value into the register that attribute `at` names, unless the expression writes one.
    fn load(
        &self,
        attrs: &Attrs<'_>,
        at: u16,
        registers: &mut Registers,
        value: impl Fn(&Self) -> Option<Vec<u8>>,
    ) -> Step {
        if let Some(register) = attrs.be32(at) {
            registers.insert(register, value(self));
        }
        Step::Matches(Some(true))
    }

    /// `enum nft_meta_keys`.
    fn meta(&self, key: u32) -> Option<Vec<u8>> {
        const NAME: usize = 16;
        let name = |iface: &Option<Iface>| {
            let mut name = iface.as_ref()?.to_string().into_bytes();
            name.resize(NAME, 0);
            Some(name)
        };
        match key {
            // Nothing of ours sets a mark.
            3 => Some(vec![0; 4]),
            6 => name(&self.packet.from),
            7 => name(&self.packet.to),
            15 => Some(vec![match self.packet.family {
                Family::V4 => super::IPV4,
                Family::V6 => super::IPV6,
            }]),
            16 => Some(vec![6]),
            _ => None,
        }
    }

    /// `enum nft_ct_keys`.
    fn ct(&self, attrs: &Attrs<'_>) -> Option<Vec<u8>> {
        match attrs.be32(2)? {
            0 => Some(self.packet.state.to_ne_bytes().to_vec()),
            1 => Some(vec![u8::from(self.packet.reply)]),
            2 => Some(self.packet.status.to_ne_bytes().to_vec()),
            _ => None,
        }
    }

    fn payload(&self, attrs: &Attrs<'_>) -> Option<Vec<u8>> {
        const NETWORK: u32 = 1;
        let (offset, len) = (usize::try_from(attrs.be32(3)?).ok()?, usize::try_from(attrs.be32(4)?).ok()?);
        (attrs.be32(2)? == NETWORK).then(|| self.packet.bytes(offset, len))?
    }

    /// `enum nft_lookup_attributes`.
    fn lookup(&mut self, attrs: &Attrs<'_>, registers: &mut Registers, depth: usize) -> Step {
        let map = attrs.be32(3);
        // 0 is the register of the verdict.
        let is_verdict = map == Some(0);
        let inverted = attrs.be32(5).unwrap_or(0) & 1 != 0;
        if let Some(register) = map.filter(|_| !is_verdict) {
            registers.insert(register, None);
        }
        let unknown = if is_verdict { Step::Ends(Ends::ANY) } else { Step::Matches(None) };
        let (Some(set), Some(key)) =
            (attrs.text(1), registers.get(&attrs.be32(2).unwrap_or_default()).cloned().flatten())
        else {
            return unknown;
        };
        let Some(elements) = self.reader.elements(self.chain.family, &self.chain.table, set) else {
            return unknown;
        };
        let found = elements.iter().find(|(element, _)| *element == key);
        match found {
            Some((_, data)) if is_verdict => {
                let verdict = Attrs::new(data).nest(elem::DATA_VERDICT);
                Step::Ends(verdict.map_or(Ends::ANY, |verdict| self.verdict(&verdict, depth)))
            }
            // The value that it maps to is not looked at.
            Some(_) if map.is_some() => Step::Matches(None),
            found => Step::Matches(Some(found.is_some() != inverted)),
        }
    }

    fn verdict(&mut self, verdict: &Attrs<'_>, depth: usize) -> Ends {
        let chain = verdict.text(elem::VERDICT_CHAIN).unwrap_or_default();
        match verdict.be32(elem::VERDICT_CODE) {
            Some(NF_ACCEPT) => Ends::ACCEPT,
            Some(NF_DROP) => Ends::DROP,
            Some(NFT_RETURN) => Ends::LEAVE,
            Some(NFT_JUMP | NFT_GOTO) if depth >= DEEPEST => Ends::ANY,
            Some(NFT_JUMP) => {
                let inner = self.through(chain, depth + 1);
                let back = if inner.can(Ends::LEAVE) { Ends::NEXT } else { Ends::default() };
                inner.without(Ends::LEAVE).or(back)
            }
            Some(NFT_GOTO) => self.through(chain, depth + 1),
            _ => Ends::ANY,
        }
    }

    /// An extension of iptables as a match (`nft_compat`): those that are on the way of every forwarded packet.
    fn extension(&self, attrs: &Attrs<'_>) -> Maybe {
        // `XT_CONNTRACK_*`. The bits of the state are those of nftables, and one for "translated destination".
        const STATE: u16 = 1;
        const STATE_ALIAS: u16 = 1 << 13;
        const DNAT: u32 = 1 << 7;
        let (revision, info) = (attrs.be32(2)?, attrs.find(3)?);
        match attrs.text(1)? {
            "comment" => Some(true),
            // struct xt_mark_mtinfo1: mark, mask, invert. The mark is 0.
            "mark" if revision == 1 => {
                let (mark, invert) = (u32::from_ne_bytes(array(info, 0)?), *info.get(8)? != 0);
                Some((mark == 0) != invert)
            }
            // struct xt_conntrack_mtinfo2 and 3: eight addresses, two times, a protocol, four ports; then these.
            "conntrack" if revision >= 2 => {
                let field = |at| array(info, at).map(u16::from_ne_bytes);
                let (flags, invert, states) = (field(146)?, field(148)?, field(150)?);
                if flags & !(STATE | STATE_ALIAS) != 0 {
                    return None;
                }
                let hit = u32::from(states) & (self.packet.state | DNAT) != 0;
                Some(hit != (invert & STATE != 0))
            }
            _ => None,
        }
    }
}

/// What an expression does.
enum Step {
    /// The rule goes on if this is so.
    Matches(Maybe),
    /// The rule ends like this.
    Ends(Ends),
}

/// A target of iptables (`nft_compat`).
fn target(name: &str) -> Step {
    match name {
        "REJECT" => Step::Ends(Ends::DROP),
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CHECKSUM" | "CT" | "TRACE" => {
            Step::Matches(Some(true))
        }
        _ => Step::Ends(Ends::ANY),
    }
}

/// `enum nft_cmp_attributes`; only equal and not equal.
fn compare(attrs: &Attrs<'_>, registers: &Registers) -> Maybe {
    let value = registers.get(&attrs.be32(1)?)?.as_ref()?;
    let wanted = attrs.nest(3)?.find(elem::DATA_VALUE)?;
    // A name of an interface may be compared by its beginning.
    let equal = value.get(..wanted.len())? == wanted;
    match attrs.be32(2)? {
        0 => Some(equal),
        1 => Some(!equal),
        _ => None,
    }
}

/// `enum nft_bitwise_attributes`: (value & mask) ^ xor.
fn bitwise(attrs: &Attrs<'_>, registers: &Registers) -> Option<Vec<u8>> {
    const OPERATION: u16 = 6;
    if attrs.be32(OPERATION).unwrap_or(0) != 0 {
        return None;
    }
    let value = registers.get(&attrs.be32(1)?)?.as_ref()?;
    let mask = attrs.nest(4)?.find(elem::DATA_VALUE)?;
    let xor = attrs.nest(5)?.find(elem::DATA_VALUE)?;
    Some(value.iter().zip(mask).zip(xor).map(|((value, mask), xor)| (value & mask) ^ xor).collect())
}
