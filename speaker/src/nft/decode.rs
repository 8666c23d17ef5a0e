//! The other way: bytes to values. Pure, and safe on any bytes whatever.
//!
//! [`replies`] reads what the kernel answers; [`batch`] reads a transaction back, which is how the encoder is
//! tested and how a recorded batch is looked at.

use std::sync::Arc;

use landfall_core::addr::Family;

use super::model::{
    Base, Batch, Bytes, ChainKind, Comment, Ct, Data, Element, Expr, Field, Header as PacketHeader, Hook,
    Into, Life, Meta, Name, NatKind, Op, Refusal, Reg, Set, TableFlags, Value, Verdict,
};
use super::numbers::{
    BATCH_BEGIN, BATCH_END, IPV4, IPV6, NF_ACCEPT, NF_DROP, NFT_GOTO, NFT_JUMP, SUBSYS, chain, elem, expr,
    msg, rule, set, table,
};
use super::userdata;
use super::wire::{Attrs, FAMILY_HEADER, HEADER, Message, Messages, NLMSG_DONE, NLMSG_ERROR, array, text};

/// `NLM_F_CAPPED`: the error carries only the header of the request.
const NLM_F_CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: the error carries attributes with details.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;

/// One answer of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// How a request ended.
    Ended {
        /// The number of the request.
        seq: u32,
        /// The error number (`errno`), positive; 0 for success.
        errno: i32,
        /// The kernel's words about it, if it had any.
        detail: Option<String>,
    },
    /// The end of a list.
    Done,
    /// The generation of the rule set: it grows with every transaction in the network namespace.
    Generation(u32),
    /// A table.
    Table(TableFacts),
    /// Some of the elements of a set.
    Elements(Vec<Element>),
    /// Something not asked for.
    Other,
}

/// Facts about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFacts {
    /// Its name.
    pub name: String,
    /// Its handle: unique as long as the network namespace lives, so a table made anew has another one.
    pub handle: u64,
    /// How many chains, sets and other objects it has.
    pub uses: u32,
    /// Its flags.
    pub flags: TableFlags,
    /// The netlink port of the socket that owns it.
    pub owner: Option<u32>,
}

/// The answers in a buffer. Ends at the first byte that is not part of a message.
pub fn replies(bytes: &[u8]) -> impl Iterator<Item = Reply> {
    Messages::new(bytes).map(|message| reply(&message))
}

fn reply(message: &Message<'_>) -> Reply {
    const NEWGEN: u16 = SUBSYS | msg::NEWGEN;
    const NEWTABLE: u16 = SUBSYS | msg::NEWTABLE;
    const NEWSETELEM: u16 = SUBSYS | msg::NEWSETELEM;
    let read = match message.kind {
        NLMSG_ERROR => ended(message),
        NLMSG_DONE => Some(Reply::Done),
        NEWGEN => attributes(message).be32(1).map(Reply::Generation),
        NEWSETELEM => elements(&attributes(message)).map(Reply::Elements),
        NEWTABLE => table_facts(&attributes(message)).map(Reply::Table),
        _ => None,
    };
    read.unwrap_or(Reply::Other)
}

fn attributes<'a>(message: &Message<'a>) -> Attrs<'a> {
    Attrs::new(message.body.get(FAMILY_HEADER..).unwrap_or_default())
}

fn ended(message: &Message<'_>) -> Option<Reply> {
    let error = i32::from_ne_bytes(array(message.body, 0)?);
    let request_len = usize::try_from(u32::from_ne_bytes(array(message.body, 4)?)).ok()?;
    let details_at = if message.flags & NLM_F_CAPPED == 0 && error != 0 {
        4_usize.checked_add(request_len)?.checked_next_multiple_of(4)?
    } else {
        4 + HEADER
    };
    let detail = if message.flags & NLM_F_ACK_TLVS == 0 {
        None
    } else {
        message.body.get(details_at..).and_then(|details| Attrs::new(details).text(ERROR_TEXT))
    };
    Some(Reply::Ended {
        seq: message.seq,
        errno: error.checked_neg().unwrap_or(i32::MAX),
        detail: detail.map(str::to_owned),
    })
}

fn table_facts(attrs: &Attrs<'_>) -> Option<TableFacts> {
    Some(TableFacts {
        name: attrs.text(table::NAME)?.to_owned(),
        handle: attrs.be64(table::HANDLE)?,
        uses: attrs.be32(table::USE)?,
        flags: table_flags(attrs.be32(table::FLAGS)?),
        owner: attrs.be32(table::OWNER).filter(|port| *port != 0),
    })
}

const fn table_flags(flags: u32) -> TableFlags {
    TableFlags { owner: flags & table::F_OWNER != 0, persist: flags & table::F_PERSIST != 0 }
}

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is no complete begin and end.
    #[error("the batch is not complete")]
    Incomplete,
    /// A message is not one of the operations in use, or lacks a part.
    #[error("message {0} of the batch cannot be read")]
    Message(usize),
}

/// A transaction as it was encoded; messages of the same number are one operation.
pub fn batch(bytes: &[u8]) -> Result<Batch, DecodeError> {
    let mut messages = Messages::new(bytes);
    if messages.next().is_none_or(|message| message.kind != BATCH_BEGIN) {
        return Err(DecodeError::Incomplete);
    }
    let mut table_name: Option<Name> = None;
    let mut ops: Vec<(u32, Op)> = Vec::new();
    for (index, message) in messages.by_ref().enumerate() {
        if message.kind == BATCH_END {
            let ops = ops.into_iter().map(|(_, op)| op).collect();
            return Ok(Batch { table: table_name.unwrap_or_else(|| Arc::from("")), ops });
        }
        let attrs = attributes(&message);
        // The name of the table is attribute 1 of every operation.
        let named = attrs.text(1).ok_or(DecodeError::Message(index))?;
        table_name.get_or_insert_with(|| Arc::from(named));
        let op = operation(message.kind, &attrs).ok_or(DecodeError::Message(index))?;
        match (ops.last_mut(), op) {
            (
                Some((seq, Op::Insert { elements, .. } | Op::Remove { elements, .. })),
                Op::Insert { elements: more, .. } | Op::Remove { elements: more, .. },
            ) if *seq == message.seq => elements.extend(more),
            (_, op) => ops.push((message.seq, op)),
        }
    }
    Err(DecodeError::Incomplete)
}

fn operation(kind: u16, attrs: &Attrs<'_>) -> Option<Op> {
    Some(match kind.checked_sub(SUBSYS)? {
        msg::NEWTABLE => Op::AddTable(table_flags(attrs.be32(table::FLAGS)?)),
        msg::DELTABLE => Op::DeleteTable,
        msg::NEWSET => Op::AddSet(read_set(attrs)?),
        msg::NEWCHAIN => {
            let base = match attrs.nest(chain::HOOK) {
                Some(hook) => Some(base(&hook, attrs.text(chain::TYPE)?)?),
                None => None,
            };
            Op::AddChain(name(attrs, chain::NAME)?, base)
        }
        msg::DELCHAIN => Op::DeleteChain(name(attrs, chain::NAME)?),
        msg::NEWRULE => {
            let exprs = attrs.nest(rule::EXPRESSIONS)?.map(|(_, data)| expression(&Attrs::new(data)));
            Op::AddRule(name(attrs, rule::CHAIN)?, exprs.collect::<Option<_>>()?)
        }
        msg::NEWSETELEM => Op::Insert {
            set: name(attrs, elem::SET)?,
            id: attrs.be32(elem::SET_ID),
            elements: elements(attrs)?,
        },
        msg::DELSETELEM => Op::Remove { set: name(attrs, elem::SET)?, elements: elements(attrs)? },
        _ => return None,
    })
}

fn name(attrs: &Attrs<'_>, kind: u16) -> Option<Name> {
    attrs.text(kind).map(Arc::from)
}

fn base(hook: &Attrs<'_>, kind: &str) -> Option<Base> {
    Some(Base {
        kind: match kind {
            "filter" => ChainKind::Filter,
            "nat" => ChainKind::Nat,
            _ => return None,
        },
        hook: match hook.be32(chain::HOOK_NUM)? {
            0 => Hook::Prerouting,
            3 => Hook::Output,
            4 => Hook::Postrouting,
            _ => return None,
        },
        priority: hook.be32(chain::HOOK_PRIORITY)?.cast_signed(),
    })
}

fn read_set(attrs: &Attrs<'_>) -> Option<Set> {
    let flags = attrs.be32(set::FLAGS)?;
    let data = match (flags & set::F_MAP != 0, attrs.be32(set::DATA_TYPE)) {
        (false, _) => None,
        (true, Some(set::DATA_VERDICT)) => Some(Data::Verdict),
        (true, number) => Some(Data::Fields(fields(number?)?)),
    };
    Some(Set {
        name: name(attrs, set::NAME)?,
        id: attrs.be32(set::ID)?,
        key: fields(attrs.be32(set::KEY_TYPE)?)?,
        data,
        interval: flags & set::F_INTERVAL != 0,
        dynamic: flags & set::F_TIMEOUT != 0,
        anonymous: flags & set::F_ANONYMOUS != 0,
        size: attrs.nest(set::DESC).and_then(|desc| desc.be32(set::DESC_SIZE)),
        userdata: attrs.find(set::USERDATA).unwrap_or_default().to_vec(),
    })
}

fn fields(mut number: u32) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while number != 0 {
        fields.push(Field::from_number(number & ((1 << set::TYPE_BITS) - 1))?);
        number >>= set::TYPE_BITS;
    }
    fields.reverse();
    (!fields.is_empty()).then_some(fields)
}

fn elements(attrs: &Attrs<'_>) -> Option<Vec<Element>> {
    attrs.nest(elem::ELEMENTS)?.map(|(_, data)| element(&Attrs::new(data))).collect()
}

fn element(attrs: &Attrs<'_>) -> Option<Element> {
    let last = match attrs.nest(elem::KEY_END) {
        Some(last) => Some(Box::new(Bytes::new(last.find(elem::DATA_VALUE)?)?)),
        None => None,
    };
    let value = match attrs.nest(elem::DATA) {
        None => Value::None,
        Some(data) => match data.nest(elem::DATA_VERDICT) {
            Some(found) => Value::Verdict(verdict(&found)?),
            None => Value::Data(Bytes::new(data.find(elem::DATA_VALUE)?)?),
        },
    };
    let life = attrs.be64(elem::TIMEOUT).zip(attrs.be64(elem::EXPIRATION));
    let life = life.map(|(timeout_ms, left_ms)| Box::new(Life { timeout_ms, left_ms }));
    Some(Element {
        key: value_of(attrs, elem::KEY)?,
        last,
        range_end: attrs.be32(elem::FLAGS) == Some(elem::F_INTERVAL_END),
        value,
        life,
        comment: attrs
            .find(elem::USERDATA)
            .and_then(userdata::commented)
            .map(|text| Box::new(Comment(Arc::from(text)))),
    })
}

fn value_of(attrs: &Attrs<'_>, kind: u16) -> Option<Bytes> {
    attrs.nest(kind)?.find(elem::DATA_VALUE).and_then(Bytes::new)
}

fn verdict(attrs: &Attrs<'_>) -> Option<Verdict> {
    Some(match attrs.be32(elem::VERDICT_CODE)? {
        NF_DROP => Verdict::Drop,
        NF_ACCEPT => Verdict::Accept,
        NFT_GOTO => Verdict::Goto(name(attrs, elem::VERDICT_CHAIN)?),
        NFT_JUMP => Verdict::Jump(name(attrs, elem::VERDICT_CHAIN)?),
        _ => return None,
    })
}

fn reg(attrs: &Attrs<'_>, kind: u16) -> Option<Reg> {
    let number = attrs.be32(kind)?.checked_sub(expr::REG32)?;
    u8::try_from(number).ok().filter(|number| *number < 16).map(Reg)
}

fn family(number: u32) -> Option<Family> {
    match u8::try_from(number).ok()? {
        IPV4 => Some(Family::V4),
        IPV6 => Some(Family::V6),
        _ => None,
    }
}

fn expression(attrs: &Attrs<'_>) -> Option<Expr> {
    let data = attrs.nest(rule::EXPR_DATA)?;
    Some(match attrs.find(rule::EXPR_NAME).and_then(text)? {
        "meta" if data.find(expr::META_SREG).is_some() => match data.be32(expr::META_KEY)? {
            expr::META_PRIORITY => Expr::SetPriority(reg(&data, expr::META_SREG)?),
            _ => return None,
        },
        "meta" => Expr::Meta(
            match data.be32(expr::META_KEY)? {
                expr::META_NFPROTO => Meta::Family,
                expr::META_L4PROTO => Meta::Protocol,
                expr::META_PRIORITY => Meta::Priority,
                _ => return None,
            },
            reg(&data, expr::META_DREG)?,
        ),
        "payload" => Expr::Payload {
            header: match data.be32(expr::PAYLOAD_BASE)? {
                expr::PAYLOAD_NETWORK => PacketHeader::Network,
                expr::PAYLOAD_TRANSPORT => PacketHeader::Transport,
                _ => return None,
            },
            offset: data.be32(expr::PAYLOAD_OFFSET)?,
            len: data.be32(expr::PAYLOAD_LEN)?,
            into: reg(&data, expr::PAYLOAD_DREG)?,
        },
        "ct" => Expr::Ct(ct(data.be32(expr::CT_KEY)?)?, reg(&data, expr::CT_DREG)?),
        "fib" => Expr::SourceType(reg(&data, expr::FIB_DREG)?),
        "cmp" => {
            let (from, with) = (reg(&data, expr::CMP_SREG)?, value_of(&data, expr::CMP_DATA)?);
            match data.be32(expr::CMP_OP)? {
                expr::CMP_EQ => Expr::Equal(from, with),
                expr::CMP_NEQ => Expr::Differs(from, with),
                _ => return None,
            }
        }
        "bitwise" => Expr::Mask(reg(&data, expr::BITWISE_SREG)?, value_of(&data, expr::BITWISE_MASK)?),
        "lookup" => Expr::Lookup {
            set: name(&data, expr::LOOKUP_SET)?,
            id: data.be32(expr::LOOKUP_SET_ID),
            key: reg(&data, expr::LOOKUP_SREG)?,
            into: match data.be32(expr::LOOKUP_DREG) {
                None => Into::Nothing,
                Some(expr::REG_VERDICT) => Into::Verdict,
                Some(_) => Into::Reg(reg(&data, expr::LOOKUP_DREG)?),
            },
        },
        "dynset" if data.be32(expr::DYNSET_OP)? == expr::DYNSET_UPDATE => Expr::Renew {
            map: name(&data, expr::DYNSET_SET)?,
            key: reg(&data, expr::DYNSET_KEY)?,
            data: reg(&data, expr::DYNSET_DATA)?,
            timeout_ms: data.be64(expr::DYNSET_TIMEOUT)?,
        },
        "hash" => Expr::Hash {
            from: reg(&data, expr::HASH_SREG)?,
            len: data.be32(expr::HASH_LEN)?,
            into: reg(&data, expr::HASH_DREG)?,
            modulus: data.be32(expr::HASH_MODULUS)?,
            seed: data.be32(expr::HASH_SEED)?,
            offset: data.be32(expr::HASH_OFFSET)?,
        },
        "nat" => Expr::Nat {
            kind: match data.be32(expr::NAT_TYPE)? {
                expr::NAT_SNAT => NatKind::Source,
                expr::NAT_DNAT => NatKind::Destination,
                _ => return None,
            },
            family: family(data.be32(expr::NAT_FAMILY)?)?,
            addr: reg(&data, expr::NAT_ADDR_MIN)?,
            port: reg(&data, expr::NAT_PROTO_MIN),
        },
        "masq" => Expr::Masquerade,
        "redir" => Expr::Redirect,
        "reject" => Expr::Reject(match data.be32(expr::REJECT_TYPE)? {
            expr::REJECT_TCP_RST => Refusal::TcpReset,
            expr::REJECT_ICMPX => Refusal::PortUnreachable,
            _ => return None,
        }),
        "counter" => Expr::Counter,
        "immediate" if data.be32(expr::IMMEDIATE_DREG)? != expr::REG_VERDICT => {
            Expr::Load(reg(&data, expr::IMMEDIATE_DREG)?, value_of(&data, expr::IMMEDIATE_DATA)?)
        }
        "immediate" => Expr::Verdict(verdict(&data.nest(expr::IMMEDIATE_DATA)?.nest(elem::DATA_VERDICT)?)?),
        _ => return None,
    })
}

const fn ct(number: u32) -> Option<Ct> {
    match number {
        expr::CT_STATE => Some(Ct::State),
        expr::CT_STATUS => Some(Ct::Status),
        expr::CT_SRC_IP => Some(Ct::OriginalSource(Family::V4)),
        expr::CT_SRC_IP6 => Some(Ct::OriginalSource(Family::V6)),
        expr::CT_DST_IP => Some(Ct::OriginalDestination(Family::V4)),
        expr::CT_DST_IP6 => Some(Ct::OriginalDestination(Family::V6)),
        expr::CT_PROTO_DST => Some(Ct::OriginalPort),
        _ => None,
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
