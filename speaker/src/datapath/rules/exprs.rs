//! The steps that the rules share: what they load, compare and look up.

use std::sync::Arc;

use landfall_core::addr::Family;

use crate::datapath::layout::{Map, PLAN};
use crate::nft::model::{Bytes, Expr, Header, Hook, Into, Meta, Name, NatKind, Reg};

/// The name of a chain for one family.
pub(super) fn per_family(name: &str, family: Family) -> Name {
    Arc::from(match family {
        Family::V4 => format!("{name}4"),
        Family::V6 => format!("{name}6"),
    })
}

/// The name of a chain for one family and addresses that are not ours alone.
pub(super) fn door(name: &str, family: Family) -> Name {
    Arc::from(format!("{}_door", per_family(name, family)))
}

/// The look for what comes from this node and its pods, and the one for everybody.
pub(super) fn dispatches(hook: Hook, family: Family) -> [Vec<Expr>; 2] {
    let mut internal = of_family(family);
    if hook == Hook::Prerouting {
        // What this node sends itself is internal anyway.
        internal.push(load_source(family, Reg(0)));
        internal.push(find(&Map::Pods.name(family), Reg(0)));
    }
    internal.extend(dispatch(family, Map::Internal));
    let mut external = of_family(family);
    external.extend(dispatch(family, Map::Service));
    [internal, external]
}

/// Goes on for packets of this family only.
pub(super) fn of_family(family: Family) -> Vec<Expr> {
    vec![Expr::Meta(Meta::Family, Reg(0)), Expr::Equal(Reg(0), byte(nfproto(family)))]
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
pub(super) const fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

pub(super) fn protocol_is(number: u8) -> [Expr; 2] {
    [Expr::Meta(Meta::Protocol, Reg(0)), Expr::Equal(Reg(0), byte(number))]
}

/// address . protocol . port of the packet, from register 0 on.
pub(super) fn load_front(family: Family) -> [Expr; 3] {
    let protocol = after_addr(family, 0);
    [load_destination(family, Reg(0)), Expr::Meta(Meta::Protocol, protocol), load_port(Reg(protocol.0 + 1))]
}

/// To the chain that a map names for the front end.
///
/// The number goes by way of the packet's priority, since `nft` knows no way from one map into the next but through
/// something that a statement sets. The chain takes it back ([`no_priority`]).
fn dispatch(family: Family, map: Map) -> Vec<Expr> {
    let mut rule = load_front(family).to_vec();
    rule.extend([
        Expr::Lookup { set: map.name(family), id: None, key: Reg(0), into: Into::Reg(Reg(0)) },
        Expr::SetPriority(Reg(0)),
        Expr::Meta(Meta::Priority, Reg(0)),
        Expr::Lookup { set: Arc::from(PLAN), id: None, key: Reg(0), into: Into::Verdict },
    ]);
    rule
}

/// Sets the packet's priority back to what packets have.
pub(super) fn no_priority() -> [Expr; 2] {
    [Expr::Load(Reg(0), host32(0)), Expr::SetPriority(Reg(0))]
}

pub(super) fn load_source(family: Family, into: Reg) -> Expr {
    let offset = match family {
        Family::V4 => 12,
        Family::V6 => 8,
    };
    Expr::Payload { header: Header::Network, offset, len: addr_len(family), into }
}

pub(super) fn load_destination(family: Family, into: Reg) -> Expr {
    let offset = match family {
        Family::V4 => 16,
        Family::V6 => 24,
    };
    Expr::Payload { header: Header::Network, offset, len: addr_len(family), into }
}

pub(super) const fn load_port(into: Reg) -> Expr {
    Expr::Payload { header: Header::Transport, offset: 2, len: 2, into }
}

/// To the endpoint a map has for the key that begins in register 0.
pub(super) fn translate(family: Family, map: Map) -> [Expr; 2] {
    [
        Expr::Lookup { set: map.name(family), id: None, key: Reg(0), into: Into::Reg(Reg(0)) },
        Expr::Nat { kind: NatKind::Destination, family, addr: Reg(0), port: Some(after_addr(family, 0)) },
    ]
}

/// Binds a connection to the address it has anyway.
pub(super) fn unchanged(family: Family, kind: NatKind) -> [Expr; 2] {
    let load = match kind {
        NatKind::Source => load_source(family, Reg(0)),
        NatKind::Destination => load_destination(family, Reg(0)),
    };
    [load, Expr::Nat { kind, family, addr: Reg(0), port: None }]
}

pub(super) fn find(set: &Name, key: Reg) -> Expr {
    Expr::Lookup { set: set.clone(), id: None, key, into: Into::Nothing }
}

pub(super) const fn addr_len(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

/// The first register behind an address that begins in register `start`.
pub(super) const fn after_addr(family: Family, start: u8) -> Reg {
    match family {
        Family::V4 => Reg(start + 1),
        Family::V6 => Reg(start + 4),
    }
}

pub(super) fn byte(value: u8) -> Bytes {
    Bytes::new(&[value]).unwrap_or(Bytes::EMPTY)
}

/// A number in host byte order, as the kernel keeps flags and counts.
pub(super) fn host32(value: u32) -> Bytes {
    Bytes::EMPTY.with(&value.to_ne_bytes())
}
