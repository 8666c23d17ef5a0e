//! What the data path needs of a kernel, tried once at the start.
//!
//! A kernel without an expression refuses the rule that has it with "no such file or directory", which it says of a
//! missing chain or set as well. So each expression is tried by itself, in a rule of a table that never comes to be,
//! and what is missing is named with the module that has it.

use std::io;
use std::sync::Arc;

use landfall_core::addr::Family;
use nix::errno::Errno;

use super::model::{
    Base, Batch, Bytes, ChainKind, Ct, Data, Element, Expr, Field, Header, Hook, Into, Meta, NatKind, Op,
    Refusal, Reg, Set, TableFlags, Value, Verdict,
};
use crate::kernel::{ApplyError, Kernel, Lack};

/// The table of the trials.
const TABLE: &str = "landfall-trial";
const CHAIN: &str = "c";
const SET: &str = "s";

/// One thing that is needed.
#[derive(Debug)]
struct Need {
    lack: Lack,
    /// What a table with it is made of.
    ops: Vec<Op>,
}

/// Fails with [`ApplyError::Lacks`] when the kernel lacks something that the data path needs.
pub fn check(kernel: &mut (impl Kernel + ?Sized)) -> Result<(), ApplyError> {
    let mut lacks = Vec::new();
    for Need { lack, mut ops } in needs() {
        ops.insert(0, Op::AddTable(TableFlags::default()));
        match kernel.would_take(&Batch { table: Arc::from(TABLE), ops }) {
            Ok(()) => {}
            Err(ApplyError::Rejected { source, .. }) if says_missing(&source) => lacks.push(lack),
            Err(error) => return Err(error),
        }
    }
    if lacks.is_empty() { Ok(()) } else { Err(ApplyError::Lacks(lacks)) }
}

/// An expression, type of chain or kind of set that is not there; anything else is another matter, above all that
/// we may not ask.
fn says_missing(error: &io::Error) -> bool {
    [Errno::ENOENT, Errno::EOPNOTSUPP, Errno::EINVAL, Errno::EAFNOSUPPORT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

fn needs() -> Vec<Need> {
    let nat = |hook| Base { kind: ChainKind::Nat, hook, priority: 0 };
    let filter = Base { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: 0 };
    let need = |what, module, ops| Need { lack: Lack { what, module }, ops };
    let rule = |what, module, base: Base, exprs: Vec<Expr>| {
        need(what, module, vec![chain(base), Op::AddRule(Arc::from(CHAIN), exprs)])
    };
    let zero = Bytes::EMPTY.with(&[0; 4]);
    let load = Expr::Meta(Meta::Protocol, Reg(0));
    let mut needs = vec![
        need("tables of the family inet", "nf_tables", vec![chain(filter)]),
        rule("meta", "nf_tables", filter, vec![load.clone()]),
        rule(
            "payload",
            "nf_tables",
            filter,
            vec![Expr::Payload { header: Header::Network, offset: 12, len: 4, into: Reg(0) }],
        ),
        rule("cmp", "nf_tables", filter, vec![load.clone(), Expr::Equal(Reg(0), zero)]),
        rule("bitwise", "nf_tables", filter, vec![load.clone(), Expr::Mask(Reg(0), zero)]),
        rule("immediate", "nf_tables", filter, vec![Expr::Verdict(Verdict::Drop)]),
        rule("counter", "nft_counter", filter, vec![Expr::Counter]),
        rule("ct", "nft_ct", filter, vec![Expr::Ct(Ct::Status, Reg(0))]),
        rule("fib", "nft_fib_inet", filter, vec![Expr::SourceType(Reg(0))]),
        rule(
            "jhash",
            "nft_hash",
            filter,
            vec![load, Expr::Hash { from: Reg(0), len: 4, into: Reg(1), modulus: 2, seed: 1, offset: 0 }],
        ),
        need("chains of the type nat", "nft_chain_nat", vec![chain(nat(Hook::Prerouting))]),
        rule("masquerade", "nft_masq", nat(Hook::Postrouting), vec![Expr::Masquerade]),
        rule("redirect", "nft_redir", nat(Hook::Prerouting), vec![Expr::Redirect]),
        rule("reject", "nft_reject_inet", filter, vec![Expr::Reject(Refusal::PortUnreachable)]),
        rule("reject with tcp reset", "nft_reject_inet", filter, vec![Expr::Reject(Refusal::TcpReset)]),
    ];
    for (what, family, number, offset, len) in
        [("dnat ip", Family::V4, 2, 16, 4), ("dnat ip6", Family::V6, 10, 24, 16)]
    {
        let exprs = vec![
            Expr::Meta(Meta::Family, Reg(0)),
            Expr::Equal(Reg(0), Bytes::new(&[number]).unwrap_or(Bytes::EMPTY)),
            Expr::Payload { header: Header::Network, offset, len, into: Reg(0) },
            Expr::Nat { kind: NatKind::Destination, family, addr: Reg(0), port: None },
        ];
        needs.push(rule(what, "nft_nat", nat(Hook::Prerouting), exprs));
    }
    // A map of verdicts that a rule looks into, and ranges of concatenated fields (Linux 5.6).
    let map = set(vec![Field::Protocol], Some(Data::Verdict), false);
    let element =
        Element::of(Bytes::new(&[6]).unwrap_or(Bytes::EMPTY), Value::Verdict(Verdict::Goto(Arc::from("d"))));
    needs.push(need(
        "verdict maps",
        "nf_tables",
        vec![
            chain(filter),
            Op::AddChain(Arc::from("d"), None),
            map,
            Op::Insert { set: Arc::from(SET), id: None, elements: vec![element] },
            Op::AddRule(
                Arc::from(CHAIN),
                vec![
                    Expr::Meta(Meta::Protocol, Reg(0)),
                    Expr::Lookup { set: Arc::from(SET), id: None, key: Reg(0), into: Into::Verdict },
                ],
            ),
        ],
    ));
    // A map to which a rule adds elements that end.
    let clients = set(vec![Field::Protocol], Some(Data::Fields(vec![Field::Protocol])), false);
    let clients = match clients {
        Op::AddSet(set) => Op::AddSet(Set { dynamic: true, ..set }),
        other => other,
    };
    needs.push(need(
        "maps that rules add to",
        "nf_tables",
        vec![
            chain(filter),
            clients,
            Op::AddRule(
                Arc::from(CHAIN),
                vec![
                    Expr::Meta(Meta::Protocol, Reg(0)),
                    Expr::Meta(Meta::Protocol, Reg(1)),
                    Expr::Renew { map: Arc::from(SET), key: Reg(0), data: Reg(1), timeout_ms: 1_000 },
                ],
            ),
        ],
    ));
    let ranges = set(vec![Field::Ipv4, Field::Ipv4], None, true);
    needs.push(need("ranges in concatenations", "nf_tables", vec![ranges]));
    needs
}

fn chain(base: Base) -> Op {
    Op::AddChain(Arc::from(CHAIN), Some(base))
}

fn set(key: Vec<Field>, data: Option<Data>, interval: bool) -> Op {
    let size = (!interval).then_some(2);
    Op::AddSet(Set {
        name: Arc::from(SET),
        id: 1,
        key,
        data,
        interval,
        dynamic: false,
        anonymous: false,
        size,
        userdata: Vec::new(),
    })
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
