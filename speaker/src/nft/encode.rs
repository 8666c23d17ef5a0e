//! A batch of operations as the bytes of one netlink transaction. Pure: the same batch gives the same bytes.
//!
//! The number (`seq`) of a message is the index of its operation plus one, so that an error the kernel reports
//! leads back to the operation. An operation with many elements becomes several messages of the same number, as
//! the length of an attribute is limited to 16 bits.

use landfall_core::addr::Family;

use super::model::{
    Base, Batch, Bytes, ChainKind, Ct, Data, Element, Expr, Field, Header as PacketHeader, Hook, Into, Meta,
    Name, NatKind, Op, Refusal, Reg, Set, TableFlags, Value, Verdict,
};
use super::numbers::{
    BATCH_BEGIN, BATCH_END, BATCH_RESOURCE, INET, IPV4, IPV6, NF_ACCEPT, NF_DROP, NFT_GOTO, NFT_JUMP, SUBSYS,
    chain, elem, expr, msg, rule, set, table,
};
use super::userdata;
use super::wire::{Header, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Writer};

/// The elements of one message: stays below the 65,535 bytes of an attribute with room for the longest element.
const ELEMENTS_PER_MESSAGE_BYTES: usize = 60_000;

/// The bytes of a batch, begin and end included.
#[must_use]
pub fn batch(batch: &Batch) -> Vec<u8> {
    // An element with key and verdict or data takes about 80 bytes, other operations a few hundred.
    let mut writer = Writer::with_capacity(512 + batch.operations() * 88);
    writer.message(frame(BATCH_BEGIN, 0), |_| {});
    let mut seq = 0;
    for op in &batch.ops {
        seq += 1;
        operation(&mut writer, seq, &batch.table, op);
    }
    writer.message(frame(BATCH_END, seq + 1), |_| {});
    writer.into_bytes()
}

/// The request for the current generation of the rule set.
#[must_use]
pub fn get_generation() -> Vec<u8> {
    let mut writer = Writer::default();
    writer.message(header(msg::GETGEN, 0, 1), |_| {});
    writer.into_bytes()
}

/// The request for facts about one table.
#[must_use]
pub fn get_table(name: &str) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.message(header(msg::GETTABLE, 0, 1), |w| w.text(table::NAME, name));
    writer.into_bytes()
}

/// The request for all elements of a set.
#[must_use]
pub fn get_elements(table: &str, set: &str) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.message(header(msg::GETSETELEM, NLM_F_DUMP, 1), |w| {
        w.text(elem::TABLE, table);
        w.text(elem::SET, set);
    });
    writer.into_bytes()
}

const fn frame(kind: u16, seq: u32) -> Header {
    Header { kind, flags: 0, seq, family: 0, version: 0, resource: BATCH_RESOURCE }
}

const fn header(kind: u16, flags: u16, seq: u32) -> Header {
    Header { kind: SUBSYS | kind, flags, seq, family: INET, version: 0, resource: 0 }
}

fn operation(writer: &mut Writer, seq: u32, table_name: &str, op: &Op) {
    const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
    match op {
        Op::AddTable(flags) => writer.message(header(msg::NEWTABLE, NLM_F_CREATE, seq), |w| {
            w.text(table::NAME, table_name);
            w.be32(table::FLAGS, table_flags(*flags));
        }),
        Op::DeleteTable => writer.message(header(msg::DELTABLE, 0, seq), |w| w.text(table::NAME, table_name)),
        Op::AddSet(made) => writer.message(header(msg::NEWSET, NEW, seq), |w| {
            w.text(set::TABLE, table_name);
            add_set(w, made);
        }),
        Op::AddChain(name, base) => writer.message(header(msg::NEWCHAIN, NEW, seq), |w| {
            w.text(chain::TABLE, table_name);
            w.text(chain::NAME, name);
            if let Some(base) = base {
                add_base(w, *base);
            }
        }),
        Op::DeleteChain(name) => writer.message(header(msg::DELCHAIN, 0, seq), |w| {
            w.text(chain::TABLE, table_name);
            w.text(chain::NAME, name);
        }),
        Op::AddRule(name, exprs) => {
            writer.message(header(msg::NEWRULE, NLM_F_CREATE | NLM_F_APPEND, seq), |w| {
                w.text(rule::TABLE, table_name);
                w.text(rule::CHAIN, name);
                w.nest(rule::EXPRESSIONS, |w| exprs.iter().for_each(|expr| expression(w, expr)));
            });
        }
        Op::Insert { set, id, elements } => {
            let list = List { header: header(msg::NEWSETELEM, NEW, seq), table: table_name, set, id: *id };
            list.write(writer, elements);
        }
        Op::Remove { set, elements } => {
            let list = List { header: header(msg::DELSETELEM, 0, seq), table: table_name, set, id: None };
            list.write(writer, elements);
        }
    }
}

const fn table_flags(flags: TableFlags) -> u32 {
    let owner = if flags.owner { table::F_OWNER } else { 0 };
    let persist = if flags.persist { table::F_PERSIST } else { 0 };
    owner | persist
}

fn add_base(w: &mut Writer, base: Base) {
    w.nest(chain::HOOK, |w| {
        w.be32(
            chain::HOOK_NUM,
            match base.hook {
                Hook::Prerouting => 0,
                Hook::Output => 3,
                Hook::Postrouting => 4,
            },
        );
        w.be32(chain::HOOK_PRIORITY, base.priority.cast_unsigned());
    });
    w.be32(chain::POLICY, chain::POLICY_ACCEPT);
    w.text(
        chain::TYPE,
        match base.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        },
    );
}

fn add_set(w: &mut Writer, made: &Set) {
    let ranges_of_fields = made.interval && made.key.len() > 1;
    let mut flags = 0;
    flags |= if made.anonymous { set::F_ANONYMOUS | set::F_CONSTANT } else { 0 };
    flags |= if made.interval { set::F_INTERVAL } else { 0 };
    flags |= if made.data.is_some() { set::F_MAP } else { 0 };
    flags |= if ranges_of_fields { set::F_CONCAT } else { 0 };
    flags |= if made.dynamic { set::F_TIMEOUT | set::F_EVAL } else { 0 };
    w.text(set::NAME, &made.name);
    w.be32(set::ID, made.id);
    w.be32(set::FLAGS, flags);
    w.be32(set::KEY_TYPE, type_number(&made.key));
    w.be32(set::KEY_LEN, length(&made.key));
    match &made.data {
        None => {}
        Some(Data::Verdict) => w.be32(set::DATA_TYPE, set::DATA_VERDICT),
        Some(Data::Fields(fields)) => {
            w.be32(set::DATA_TYPE, type_number(fields));
            w.be32(set::DATA_LEN, length(fields));
        }
    }
    if made.size.is_some() || ranges_of_fields {
        w.nest(set::DESC, |w| {
            if let Some(size) = made.size {
                w.be32(set::DESC_SIZE, size);
            }
            if ranges_of_fields {
                w.nest(set::DESC_CONCAT, |w| {
                    for field in &made.key {
                        w.nest(rule::LIST_ELEM, |w| w.be32(set::FIELD_LEN, field.width()));
                    }
                });
            }
        });
    }
    if !made.userdata.is_empty() {
        w.attr(set::USERDATA, &made.userdata);
    }
}

/// `nft`'s number of a concatenated type.
fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |number, field| number << set::TYPE_BITS | field.number())
}

/// The length in registers. A single field is not padded.
fn length(fields: &[Field]) -> u32 {
    match fields {
        [only] => only.width(),
        _ => fields.iter().map(|field| field.width().next_multiple_of(4)).sum(),
    }
}

/// Elements of one set, in as many messages as it takes.
struct List<'a> {
    header: Header,
    table: &'a str,
    set: &'a Name,
    id: Option<u32>,
}

impl List<'_> {
    fn write(&self, writer: &mut Writer, elements: &[Element]) {
        let mut rest = elements.iter().peekable();
        loop {
            writer.message(self.header, |w| {
                w.text(elem::TABLE, self.table);
                w.text(elem::SET, self.set);
                if let Some(id) = self.id {
                    w.be32(elem::SET_ID, id);
                }
                w.nest(elem::ELEMENTS, |w| {
                    let start = w.len();
                    while w.len() - start < ELEMENTS_PER_MESSAGE_BYTES {
                        let Some(element) = rest.next() else { break };
                        w.nest(rule::LIST_ELEM, |w| write_element(w, element));
                    }
                });
            });
            if rest.peek().is_none() {
                return;
            }
        }
    }
}

fn write_element(w: &mut Writer, element: &Element) {
    value(w, elem::KEY, element.key.as_slice());
    if let Some(last) = &element.last {
        value(w, elem::KEY_END, last.as_slice());
    }
    if element.range_end {
        w.be32(elem::FLAGS, elem::F_INTERVAL_END);
    }
    match &element.value {
        Value::None => {}
        Value::Verdict(found) => verdict(w, elem::DATA, found),
        Value::Data(data) => value(w, elem::DATA, data.as_slice()),
    }
    if let Some(life) = &element.life {
        w.be64(elem::TIMEOUT, life.timeout_ms);
        w.be64(elem::EXPIRATION, life.left_ms);
    }
    if let Some(comment) = &element.comment {
        w.attr(elem::USERDATA, &userdata::comment(&comment.0));
    }
}

fn value(w: &mut Writer, kind: u16, data: &[u8]) {
    w.nest(kind, |w| w.attr(elem::DATA_VALUE, data));
}

fn verdict(w: &mut Writer, kind: u16, verdict: &Verdict) {
    let (code, target) = match verdict {
        Verdict::Drop => (NF_DROP, None),
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
    };
    w.nest(kind, |w| {
        w.nest(elem::DATA_VERDICT, |w| {
            w.be32(elem::VERDICT_CODE, code);
            if let Some(target) = target {
                w.text(elem::VERDICT_CHAIN, target);
            }
        });
    });
}

fn expression(w: &mut Writer, expr: &Expr) {
    w.nest(rule::LIST_ELEM, |w| {
        w.text(rule::EXPR_NAME, expr.name());
        w.nest(rule::EXPR_DATA, |w| expression_data(w, expr));
    });
}

const fn reg(reg: Reg) -> u32 {
    expr::REG32 + reg.0 as u32
}

pub(super) const fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}

fn expression_data(w: &mut Writer, found: &Expr) {
    match found {
        Expr::Meta(key, into) => {
            w.be32(expr::META_DREG, reg(*into));
            w.be32(
                expr::META_KEY,
                match key {
                    Meta::Family => expr::META_NFPROTO,
                    Meta::Protocol => expr::META_L4PROTO,
                    Meta::Priority => expr::META_PRIORITY,
                },
            );
        }
        Expr::SetPriority(from) => {
            w.be32(expr::META_KEY, expr::META_PRIORITY);
            w.be32(expr::META_SREG, reg(*from));
        }
        Expr::Load(into, data) => {
            w.be32(expr::IMMEDIATE_DREG, reg(*into));
            value(w, expr::IMMEDIATE_DATA, data.as_slice());
        }
        Expr::Payload { header, offset, len, into } => {
            w.be32(expr::PAYLOAD_DREG, reg(*into));
            w.be32(
                expr::PAYLOAD_BASE,
                match header {
                    PacketHeader::Network => expr::PAYLOAD_NETWORK,
                    PacketHeader::Transport => expr::PAYLOAD_TRANSPORT,
                },
            );
            w.be32(expr::PAYLOAD_OFFSET, *offset);
            w.be32(expr::PAYLOAD_LEN, *len);
        }
        Expr::Ct(key, into) => ct(w, *key, *into),
        Expr::SourceType(into) => {
            w.be32(expr::FIB_DREG, reg(*into));
            w.be32(expr::FIB_RESULT, expr::FIB_RESULT_ADDRTYPE);
            w.be32(expr::FIB_FLAGS, expr::FIB_F_SADDR);
        }
        Expr::Equal(from, data) => compare(w, *from, expr::CMP_EQ, data),
        Expr::Differs(from, data) => compare(w, *from, expr::CMP_NEQ, data),
        Expr::Mask(at, mask) => {
            let len = mask.as_slice().len();
            w.be32(expr::BITWISE_SREG, reg(*at));
            w.be32(expr::BITWISE_DREG, reg(*at));
            w.be32(expr::BITWISE_LEN, u32::try_from(len).unwrap_or(u32::MAX));
            value(w, expr::BITWISE_MASK, mask.as_slice());
            value(w, expr::BITWISE_XOR, &vec![0; len]);
        }
        Expr::Lookup { set, id, key, into } => {
            w.text(expr::LOOKUP_SET, set);
            w.be32(expr::LOOKUP_SREG, reg(*key));
            match into {
                Into::Nothing => {}
                Into::Verdict => w.be32(expr::LOOKUP_DREG, expr::REG_VERDICT),
                Into::Reg(into) => w.be32(expr::LOOKUP_DREG, reg(*into)),
            }
            if let Some(id) = id {
                w.be32(expr::LOOKUP_SET_ID, *id);
            }
        }
        Expr::Renew { map, key, data, timeout_ms } => {
            w.text(expr::DYNSET_SET, map);
            w.be32(expr::DYNSET_OP, expr::DYNSET_UPDATE);
            w.be32(expr::DYNSET_KEY, reg(*key));
            w.be32(expr::DYNSET_DATA, reg(*data));
            w.be64(expr::DYNSET_TIMEOUT, *timeout_ms);
        }
        Expr::Hash { from, len, into, modulus, seed, offset } => {
            w.be32(expr::HASH_SREG, reg(*from));
            w.be32(expr::HASH_DREG, reg(*into));
            w.be32(expr::HASH_LEN, *len);
            w.be32(expr::HASH_MODULUS, *modulus);
            w.be32(expr::HASH_SEED, *seed);
            w.be32(expr::HASH_OFFSET, *offset);
            w.be32(expr::HASH_TYPE, expr::HASH_JENKINS);
        }
        Expr::Nat { kind, family, addr, port } => nat(w, *kind, *family, *addr, *port),
        Expr::Masquerade => w.be32(expr::MASQ_FLAGS, expr::FULLY_RANDOM),
        Expr::Redirect | Expr::Counter => {}
        Expr::Reject(Refusal::TcpReset) => w.be32(expr::REJECT_TYPE, expr::REJECT_TCP_RST),
        Expr::Reject(Refusal::PortUnreachable) => {
            w.be32(expr::REJECT_TYPE, expr::REJECT_ICMPX);
            w.attr(expr::REJECT_CODE, &[expr::REJECT_PORT]);
        }
        Expr::Verdict(found) => {
            w.be32(expr::IMMEDIATE_DREG, expr::REG_VERDICT);
            verdict(w, expr::IMMEDIATE_DATA, found);
        }
    }
}

fn ct(w: &mut Writer, key: Ct, into: Reg) {
    let (number, original) = match key {
        Ct::State => (expr::CT_STATE, false),
        Ct::Status => (expr::CT_STATUS, false),
        Ct::OriginalSource(Family::V4) => (expr::CT_SRC_IP, true),
        Ct::OriginalSource(Family::V6) => (expr::CT_SRC_IP6, true),
        Ct::OriginalDestination(Family::V4) => (expr::CT_DST_IP, true),
        Ct::OriginalDestination(Family::V6) => (expr::CT_DST_IP6, true),
        Ct::OriginalPort => (expr::CT_PROTO_DST, true),
    };
    w.be32(expr::CT_DREG, reg(into));
    w.be32(expr::CT_KEY, number);
    if original {
        // IP_CT_DIR_ORIGINAL
        w.attr(expr::CT_DIRECTION, &[0]);
    }
}

fn compare(w: &mut Writer, from: Reg, op: u32, data: &Bytes) {
    w.be32(expr::CMP_SREG, reg(from));
    w.be32(expr::CMP_OP, op);
    value(w, expr::CMP_DATA, data.as_slice());
}

fn nat(w: &mut Writer, kind: NatKind, family: Family, addr: Reg, port: Option<Reg>) {
    w.be32(
        expr::NAT_TYPE,
        match kind {
            NatKind::Source => expr::NAT_SNAT,
            NatKind::Destination => expr::NAT_DNAT,
        },
    );
    w.be32(expr::NAT_FAMILY, u32::from(nfproto(family)));
    w.be32(expr::NAT_ADDR_MIN, reg(addr));
    w.be32(expr::NAT_ADDR_MAX, reg(addr));
    if let Some(port) = port {
        w.be32(expr::NAT_PROTO_MIN, reg(port));
        w.be32(expr::NAT_PROTO_MAX, reg(port));
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
