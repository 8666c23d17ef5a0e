//! What a table is made of, as values: operations on sets, chains, rules and elements.
//!
//! This is the part of nftables that Landfall uses, not all of it. Names and meanings are nftables' own; a batch
//! is one transaction of the kernel and happens as a whole or not at all.

use std::fmt;
use std::sync::Arc;

use landfall_core::addr::Family;

/// The name of a table, chain or set; cheap to clone.
pub type Name = Arc<str>;

/// The longest key: an IPv6 address, a protocol, a port and another IPv6 address, each padded to four bytes.
pub const MAX_BYTES: usize = 40;

/// A few bytes as they stand in a register: a key, or the data of a map. Held in place, since a full load has a
/// hundred thousand of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes {
    len: u8,
    bytes: [u8; MAX_BYTES],
}

impl Bytes {
    /// No bytes.
    pub const EMPTY: Self = Self { len: 0, bytes: [0; MAX_BYTES] };

    /// These bytes; `None` when they are more than [`MAX_BYTES`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut made = Self::EMPTY;
        made.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        made.len = u8::try_from(bytes.len()).ok()?;
        Some(made)
    }

    /// With one more field of a concatenation, padded with zeros to a multiple of four bytes as the kernel lays
    /// fields out in its registers. A field that does not fit is left out: layouts are fixed and tested.
    #[must_use]
    pub fn with(mut self, field: &[u8]) -> Self {
        let start = usize::from(self.len);
        let padded = start + field.len().next_multiple_of(4);
        if let Some(room) = self.bytes.get_mut(start..padded)
            && let Some(place) = room.get_mut(..field.len())
        {
            place.copy_from_slice(field);
            self.len = u8::try_from(padded).unwrap_or(self.len);
        }
        self
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It is dropped.
    Drop,
    /// This hook is done with it.
    Accept,
    /// Evaluation goes on in that chain and does not come back.
    Goto(Name),
    /// Evaluation goes on in that chain, and then here.
    Jump(Name),
}

impl Verdict {
    /// The chain it leads to.
    #[must_use]
    pub const fn chain(&self) -> Option<&Name> {
        match self {
            Self::Goto(chain) | Self::Jump(chain) => Some(chain),
            Self::Drop | Self::Accept => None,
        }
    }
}

/// The type of one field of a key or of a map's data; the numbers are those by which `nft` knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// The family of a packet as netfilter numbers it, one byte.
    Family,
    /// A number in host byte order, four bytes.
    Integer,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A transport protocol, one byte.
    Protocol,
    /// A port in network byte order.
    Port,
    /// A traffic class, four bytes in host byte order.
    Class,
}

impl Field {
    /// `nft`'s number of the type (`enum datatypes`).
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Family => 2,
            Self::Integer => 4,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Class => 23,
        }
    }

    /// The field with that number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            2 => Some(Self::Family),
            4 => Some(Self::Integer),
            7 => Some(Self::Ipv4),
            8 => Some(Self::Ipv6),
            12 => Some(Self::Protocol),
            13 => Some(Self::Port),
            23 => Some(Self::Class),
            _ => None,
        }
    }

    /// Its length in bytes, without padding.
    #[must_use]
    pub const fn width(self) -> u32 {
        match self {
            Self::Integer | Self::Ipv4 | Self::Class => 4,
            Self::Ipv6 => 16,
            Self::Family | Self::Protocol => 1,
            Self::Port => 2,
        }
    }
}

/// What the keys of a map lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A verdict.
    Verdict,
    /// A value of these fields.
    Fields(Vec<Field>),
}

/// A set or, with `data`, a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name; for an anonymous set a pattern that the kernel fills (`__set%d`).
    pub name: Name,
    /// By this number later operations of the same batch may refer to it.
    pub id: u32,
    /// The fields of its key.
    pub key: Vec<Field>,
    /// What its keys lead to; `None` for a set.
    pub data: Option<Data>,
    /// Whether its elements are ranges.
    pub interval: bool,
    /// Whether rules add elements to it, which go when their time is over.
    pub dynamic: bool,
    /// Whether it belongs to one rule only, and is constant.
    pub anonymous: bool,
    /// The greatest number of elements. With it the kernel uses a hash of fixed size.
    pub size: Option<u32>,
    /// What `nft` needs to print it (see [`crate::nft::userdata`]); opaque to the kernel.
    pub userdata: Vec<u8>,
}

/// What stands behind a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing: the element of a set.
    None,
    /// A verdict.
    Verdict(Verdict),
    /// Data.
    Data(Bytes),
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key; the first one of the range in a set of ranges with more than one field.
    pub key: Bytes,
    /// The last key of the range, in a set of ranges with more than one field.
    pub last: Option<Box<Bytes>>,
    /// In a set of ranges with one field: this key is the first one behind a range.
    pub range_end: bool,
    /// What stands behind it.
    pub value: Value,
    /// How long it stays, in a set whose elements go when their time is over; `None`: for ever.
    pub life: Option<Box<Life>>,
    /// A word for people, which `nft` prints; opaque to the kernel. At most [`MAX_COMMENT`] bytes.
    pub comment: Option<Box<Comment>>,
}

/// The longest comment that `nft` prints (`NFTNL_UDATA_COMMENT_MAXLEN`, without the byte that ends it): a namespace and
/// the name of a Service, 63 bytes each, and what is between them.
pub const MAX_COMMENT: usize = 127;

/// What stands beside an element for people. In a box, since few of the many elements have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment(pub Name);

/// How long an element stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// How long it stays when nothing renews it, in milliseconds.
    pub timeout_ms: u64,
    /// How much of that is left, in milliseconds.
    pub left_ms: u64,
}

impl Element {
    /// An element that is one key.
    #[must_use]
    pub const fn of(key: Bytes, value: Value) -> Self {
        Self { key, last: None, range_end: false, value, life: None, comment: None }
    }

    /// The same with a comment.
    #[must_use]
    pub fn commented(mut self, comment: Name) -> Self {
        self.comment = Some(Box::new(Comment(comment)));
        self
    }
}

/// A register of 32 bits; values longer than that use the following ones too. There are sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reg(pub u8);

/// Which header of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The IP header.
    Network,
    /// The TCP, UDP, SCTP or ICMP header.
    Transport,
}

/// What is asked about a packet besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The family: 2 for IPv4, 10 for IPv6.
    Family,
    /// The transport protocol.
    Protocol,
    /// The packet's priority, in host byte order; 0 unless somebody has set it.
    Priority,
}

/// What is asked about a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ct {
    /// Its state as a bit of [`ct_state`], in host byte order.
    State,
    /// Its status bits ([`ct_status`]), in host byte order.
    Status,
    /// The source of its first packet, before translation; does not match in the other family.
    OriginalSource(Family),
    /// The destination of its first packet, before translation; does not match in the other family.
    OriginalDestination(Family),
    /// The destination port of its first packet, before translation.
    OriginalPort,
}

/// Bits of [`Ct::State`] (`NF_CT_STATE_BIT`, `linux/netfilter/nf_conntrack_common.h`).
pub mod ct_state {
    /// No part of any connection.
    pub const INVALID: u32 = 1;
    /// The first packet of a connection.
    pub const NEW: u32 = 8;
}

/// Bits of [`Ct::Status`] (`enum ip_conntrack_status`).
pub mod ct_status {
    /// The destination is translated.
    pub const DESTINATION_NAT: u32 = 1 << 5;
}

/// Where the result of a lookup goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// Nowhere: it only has to be found.
    Nothing,
    /// It is the verdict.
    Verdict,
    /// A register.
    Reg(Reg),
}

/// Which address a translation changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// With a TCP reset.
    TcpReset,
    /// With ICMP or `ICMPv6` port unreachable.
    PortUnreachable,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads a fact about the packet.
    Meta(Meta, Reg),
    /// Loads bytes of a header.
    Payload {
        /// Which header.
        header: Header,
        /// From which byte of it.
        offset: u32,
        /// How many bytes.
        len: u32,
        /// Into which register.
        into: Reg,
    },
    /// Loads a fact about the connection.
    Ct(Ct, Reg),
    /// Loads the type of the packet's source address as the routing table sees it (`fib saddr type`).
    SourceType(Reg),
    /// Sets the packet's priority from a register. A value survives the end of a rule only in the packet.
    SetPriority(Reg),
    /// Loads a constant.
    Load(Reg, Bytes),
    /// Goes on only if the register equals the bytes.
    Equal(Reg, Bytes),
    /// Goes on only if the register differs from the bytes.
    Differs(Reg, Bytes),
    /// Keeps only these bits of a register.
    Mask(Reg, Bytes),
    /// Goes on only if the key is found.
    Lookup {
        /// In which set, by name.
        set: Name,
        /// The set's number when it was made in the same batch.
        id: Option<u32>,
        /// Where the key begins.
        key: Reg,
        /// Where its data goes.
        into: Into,
    },
    /// Adds an element to a map, or renews the time of the one that is there and leaves its data alone. Ends the rule
    /// when the map is full.
    Renew {
        /// Which map.
        map: Name,
        /// Where the key begins.
        key: Reg,
        /// Where the data begins.
        data: Reg,
        /// How long the element stays, in milliseconds.
        timeout_ms: u64,
    },
    /// Jenkins' hash of registers: `hash mod modulus + offset`.
    Hash {
        /// Where the hashed bytes begin.
        from: Reg,
        /// How many bytes are hashed.
        len: u32,
        /// Where the result goes, in host byte order.
        into: Reg,
        /// The number of results.
        modulus: u32,
        /// The seed.
        seed: u32,
        /// What is added.
        offset: u32,
    },
    /// Translates the connection to an address in a register, and a port.
    Nat {
        /// Which end.
        kind: NatKind,
        /// The family of the address.
        family: Family,
        /// Where the address is.
        addr: Reg,
        /// Where the port is, if it changes.
        port: Option<Reg>,
    },
    /// Replaces the source by the address of the interface the packet leaves through, and the port by a random
    /// one.
    Masquerade,
    /// Translates the destination to the address of the interface the packet came in through.
    Redirect,
    /// Refuses the packet.
    Reject(Refusal),
    /// Counts packets and bytes.
    Counter,
    /// Ends evaluation.
    Verdict(Verdict),
}

impl Expr {
    /// The kernel's name of the expression, which is also that of the module it may live in (`nft_…`).
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Meta(..) | Self::SetPriority(_) => "meta",
            Self::Payload { .. } => "payload",
            Self::Ct(..) => "ct",
            Self::SourceType(_) => "fib",
            Self::Equal(..) | Self::Differs(..) => "cmp",
            Self::Mask(..) => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Renew { .. } => "dynset",
            Self::Hash { .. } => "hash",
            Self::Nat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Redirect => "redir",
            Self::Reject(_) => "reject",
            Self::Counter => "counter",
            Self::Verdict(_) | Self::Load(..) => "immediate",
        }
    }
}

/// What kind of base chain: what its rules may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Decides about every packet.
    Filter,
    /// Decides about the first packet of a connection, and may translate it.
    Nat,
}

/// Where in the kernel's path packets meet a base chain (`enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// After a packet has come in, before it is routed.
    Prerouting,
    /// After this host has made a packet.
    Output,
    /// Before a packet goes out.
    Postrouting,
}

/// Where and when a base chain is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What kind it is.
    pub kind: ChainKind,
    /// Where it is run.
    pub hook: Hook,
    /// Lower ones run first.
    pub priority: i32,
}

/// Table flags (`NFT_TABLE_F_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableFlags {
    /// Only the socket that made the table may change it.
    pub owner: bool,
    /// It stays when that socket is closed, and another one may take it over.
    pub persist: bool,
}

/// One operation of a batch. All work on the batch's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes the table, or takes an ownerless persistent one over; leaves one alone that is there and ours.
    AddTable(TableFlags),
    /// Deletes the table with everything in it; fails without it.
    DeleteTable,
    /// Makes a set or map.
    AddSet(Set),
    /// Makes a chain.
    AddChain(Name, Option<Base>),
    /// Deletes a chain with its rules; fails while anything leads to it.
    DeleteChain(Name),
    /// Appends a rule to a chain.
    AddRule(Name, Vec<Expr>),
    /// Inserts elements, none of which is there.
    Insert {
        /// Into which set.
        set: Name,
        /// The set's number when it was made in the same batch (needed only for anonymous sets).
        id: Option<u32>,
        /// The elements.
        elements: Vec<Element>,
    },
    /// Removes elements, all of which are there; their values are not looked at.
    Remove {
        /// From which set.
        set: Name,
        /// The elements.
        elements: Vec<Element>,
    },
}

impl fmt::Display for Op {
    /// Short, for errors: what was tried and on what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable(_) => f.write_str("add table"),
            Self::DeleteTable => f.write_str("delete table"),
            Self::AddSet(set) => write!(f, "add set {}", set.name),
            Self::AddChain(name, _) => write!(f, "add chain {name}"),
            Self::DeleteChain(name) => write!(f, "delete chain {name}"),
            Self::AddRule(chain, exprs) => {
                write!(f, "add rule to chain {chain} (expressions")?;
                exprs.iter().try_for_each(|expr| write!(f, " {}", expr.name()))?;
                f.write_str(")")
            }
            Self::Insert { set, elements, .. } => write_elements(f, "insert into", set, elements),
            Self::Remove { set, elements } => write_elements(f, "remove from", set, elements),
        }
    }
}

fn write_elements(f: &mut fmt::Formatter<'_>, verb: &str, set: &str, elements: &[Element]) -> fmt::Result {
    match elements {
        [only] => write!(f, "{verb} set {set} the key {:?}", only.key),
        _ => write!(f, "{verb} set {set} {} elements", elements.len()),
    }
}

/// Operations that happen together or not at all, in one table of the family `inet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The table.
    pub table: Name,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new(table: impl AsRef<str>) -> Self {
        Self { table: Arc::from(table.as_ref()), ops: Vec::new() }
    }

    /// How many single operations it has, elements counted one by one.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.ops
            .iter()
            .map(|op| match op {
                Op::Insert { elements, .. } | Op::Remove { elements, .. } => elements.len(),
                _ => 1,
            })
            .sum()
    }
}
