//! Reading chains, rules and small sets over netlink. Pure parsing, and the one socket that asks.

use std::io;

use netlink_packet_core::NLM_F_DUMP_INTR;
use netlink_sys::constants::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::nft::numbers::{NF_DROP, SUBSYS, chain, elem, msg, rule};
use crate::nft::wire::{
    Attrs, FAMILY_HEADER, Header, Messages, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, Writer, array,
};

/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;

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
        let answers = self.list(msg::GETCHAIN, 0, |_| {})?;
        Ok(answers.iter().filter_map(|body| base_chain(body)).collect())
    }

    /// The rules of a chain.
    pub(super) fn rules(&mut self, family: u8, table: &str, chain: &str) -> Chain {
        let answers = self
            .list(msg::GETRULE, family, |w| {
                w.text(rule::TABLE, table);
                w.text(rule::CHAIN, chain);
            })
            .ok()?;
        self.rules += answers.len();
        if self.rules > MOST_RULES {
            return None;
        }
        // Old kernels do not filter by chain.
        let of_chain = |body: &&Vec<u8>| attributes(body).text(rule::CHAIN) == Some(chain);
        Some(answers.iter().filter(of_chain).map(|body| rule(body)).collect())
    }

    /// The elements of a set.
    pub(super) fn elements(&mut self, family: u8, table: &str, set: &str) -> Elements {
        let answers = self
            .list(msg::GETSETELEM, family, |w| {
                w.text(elem::TABLE, table);
                w.text(elem::SET, set);
            })
            .ok()?;
        let lists = answers.iter().filter_map(|body| attributes(body).nest(elem::ELEMENTS));
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
                // Something changed while the list was made.
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
    let hook = attrs.nest(chain::HOOK)?;
    let forward = hook.be32(chain::HOOK_NUM) == Some(FORWARD) && attrs.text(chain::TYPE) == Some("filter");
    forward.then_some(())?;
    Some(BaseChain {
        family: *body.first()?,
        table: attrs.text(chain::TABLE)?.to_owned(),
        name: attrs.text(chain::NAME)?.to_owned(),
        drops: attrs.be32(chain::POLICY) == Some(NF_DROP),
    })
}

fn rule(body: &[u8]) -> Rule {
    let expressions = attributes(body).nest(rule::EXPRESSIONS).into_iter().flatten();
    let expression = |(kind, data)| {
        let attrs = Attrs::new(data);
        // One that cannot be read counts as unknown, not as absent.
        let name = (kind == rule::LIST_ELEM).then(|| attrs.text(rule::EXPR_NAME)).flatten();
        (name.unwrap_or_default().to_owned(), attrs.find(rule::EXPR_DATA).unwrap_or_default().to_vec())
    };
    Rule(expressions.map(expression).collect())
}

/// An element that stands for one value; `None` for an interval or something newer.
fn element(attrs: &Attrs<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    if attrs.find(elem::FLAGS).is_some() || attrs.find(elem::KEY_END).is_some() {
        return None;
    }
    let key = attrs.nest(elem::KEY)?.find(elem::DATA_VALUE)?.to_vec();
    Some((key, attrs.find(elem::DATA).unwrap_or_default().to_vec()))
}
