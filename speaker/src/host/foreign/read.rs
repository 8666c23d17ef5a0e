//! Reading chains, rules and small sets over netlink. Pure parsing, and the one socket that asks.

use std::io;

use netlink_sys::constants::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::nft::wire::{
    Attrs, FAMILY_HEADER, Header, Messages, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, Writer, array,
};

/// `NFNL_SUBSYS_NFTABLES` and the messages that ask and answer (`linux/netfilter/nf_tables.h`).
const SUBSYS: u16 = 10 << 8;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
const GET_ELEMENTS: u16 = 13;

/// `enum nft_chain_attributes`, `nft_hook_attributes`.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUM: u16 = 1;
/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// `NF_DROP`.
const DROP: u32 = 0;

/// `enum nft_rule_attributes`, `nft_expr_attributes`, and the elements of a list.
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// `enum nft_set_elem_list_attributes`, `nft_set_elem_attributes`, `nft_data_attributes`.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;

/// `NLM_F_DUMP_INTR`: something changed while the list was made.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Room for one datagram: the kernel fills at most 32 KiB at a time.
const ANSWER: usize = 64 * 1024;
/// How often a list is asked for again that changed on the way.
const TRIES: usize = 3;
/// Rules read for one look, and elements of a set, at most: more than anybody has on the way of every packet.
const MOST_RULES: usize = 20_000;
const MOST_ELEMENTS: usize = 256;

/// A chain of type filter in the forward hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BaseChain {
    /// `NFPROTO_*`.
    pub(super) family: u8,
    /// Its table.
    pub(super) table: String,
    /// Its name.
    pub(super) name: String,
    /// Whether its policy is to drop.
    pub(super) drops: bool,
}

/// The rules of a chain; `None` when they cannot be known.
pub(super) type Chain = Option<Vec<Rule>>;

/// A rule: its expressions, each with a name and its attributes as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule(pub(super) Vec<(String, Vec<u8>)>);

/// The elements of a small set or map of single values: key, and the attributes of the datum.
pub(super) type Elements = Option<Vec<(Vec<u8>, Vec<u8>)>>;

/// Asks the kernel of this thread's network namespace.
#[derive(Debug)]
pub(super) struct Reader {
    socket: Socket,
    seq: u32,
    rules: usize,
}

impl Reader {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        // A list is made by the kernel while it is received: there is never anything to wait for.
        socket.set_non_blocking(true)?;
        Ok(Self { socket, seq: 0, rules: 0 })
    }

    /// Every chain that could drop what is forwarded.
    pub(super) fn forward_chains(&mut self) -> io::Result<Vec<BaseChain>> {
        let answers = self.list(GET_CHAIN, 0, |_| {})?;
        Ok(answers.iter().filter_map(|body| base_chain(body)).collect())
    }

    /// The rules of a chain.
    pub(super) fn rules(&mut self, family: u8, table: &str, chain: &str) -> Chain {
        let answers = self
            .list(GET_RULE, family, |w| {
                w.text(RULE_TABLE, table);
                w.text(RULE_CHAIN, chain);
            })
            .ok()?;
        self.rules += answers.len();
        if self.rules > MOST_RULES {
            return None;
        }
        // Old kernels do not filter by chain.
        let of_chain = |body: &&Vec<u8>| attributes(body).text(RULE_CHAIN) == Some(chain);
        Some(answers.iter().filter(of_chain).map(|body| rule(body)).collect())
    }

    /// The elements of a set.
    pub(super) fn elements(&mut self, family: u8, table: &str, set: &str) -> Elements {
        let answers = self
            .list(GET_ELEMENTS, family, |w| {
                w.text(LIST_TABLE, table);
                w.text(LIST_SET, set);
            })
            .ok()?;
        let lists = answers.iter().filter_map(|body| attributes(body).nest(LIST_ELEMENTS));
        let mut elements = Vec::new();
        for (_, data) in lists.flatten() {
            elements.push(element(&Attrs::new(data))?);
            if elements.len() > MOST_ELEMENTS {
                return None;
            }
        }
        Some(elements)
    }

    /// Asks for a list and returns the bodies of the answers.
    fn list(&mut self, kind: u16, family: u8, body: impl Fn(&mut Writer)) -> io::Result<Vec<Vec<u8>>> {
        let mut last = io::Error::from(io::ErrorKind::Interrupted);
        for _ in 0..TRIES {
            self.seq += 1;
            let header = Header {
                kind: SUBSYS | kind,
                flags: NLM_F_DUMP,
                seq: self.seq,
                family,
                version: 0,
                resource: 0,
            };
            let mut request = Writer::default();
            request.message(header, &body);
            self.socket.send_to(&request.into_bytes(), &SocketAddr::new(0, 0), 0)?;
            match self.receive() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    fn receive(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let (mut bodies, mut torn) = (Vec::new(), false);
        let mut buffer = Vec::with_capacity(ANSWER);
        loop {
            buffer.clear();
            buffer.reserve(ANSWER);
            self.socket.recv(&mut buffer, 0)?;
            for message in Messages::new(&buffer).filter(|message| message.seq == self.seq) {
                torn |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE if torn => return Err(io::ErrorKind::Interrupted.into()),
                    NLMSG_DONE => return Ok(bodies),
                    NLMSG_ERROR => {
                        let errno = array(message.body, 0).map_or(0, i32::from_ne_bytes);
                        return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
                    }
                    _ => bodies.push(message.body.to_vec()),
                }
            }
        }
    }
}

fn attributes(body: &[u8]) -> Attrs<'_> {
    Attrs::new(body.get(FAMILY_HEADER..).unwrap_or_default())
}

fn base_chain(body: &[u8]) -> Option<BaseChain> {
    let attrs = attributes(body);
    let hook = attrs.nest(CHAIN_HOOK)?;
    let forward = hook.be32(HOOK_NUM) == Some(FORWARD) && attrs.text(CHAIN_TYPE) == Some("filter");
    forward.then_some(())?;
    Some(BaseChain {
        family: *body.first()?,
        table: attrs.text(CHAIN_TABLE)?.to_owned(),
        name: attrs.text(CHAIN_NAME)?.to_owned(),
        drops: attrs.be32(CHAIN_POLICY) == Some(DROP),
    })
}

fn rule(body: &[u8]) -> Rule {
    let expressions = attributes(body).nest(RULE_EXPRESSIONS).into_iter().flatten();
    let expression = |(kind, data)| {
        let attrs = Attrs::new(data);
        // One that cannot be read counts as unknown, not as absent.
        let name = (kind == LIST_ELEMENT).then(|| attrs.text(EXPRESSION_NAME)).flatten();
        (name.unwrap_or_default().to_owned(), attrs.find(EXPRESSION_DATA).unwrap_or_default().to_vec())
    };
    Rule(expressions.map(expression).collect())
}

/// An element that stands for one value; `None` for an interval or something newer.
fn element(attrs: &Attrs<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    if attrs.find(ELEMENT_FLAGS).is_some() || attrs.find(ELEMENT_KEY_END).is_some() {
        return None;
    }
    let key = attrs.nest(ELEMENT_KEY)?.find(DATA_VALUE)?.to_vec();
    Some((key, attrs.find(ELEMENT_DATA).unwrap_or_default().to_vec()))
}
