//! Netlink's framing: messages, attributes and nests, written and read. Reading never trusts a length.

/// The length of a message header (`struct nlmsghdr`).
pub const HEADER: usize = 16;
/// The length of the netfilter header that follows it (`struct nfgenmsg`).
pub const FAMILY_HEADER: usize = 4;
/// Every message is a request.
pub const NLM_F_REQUEST: u16 = 1;
/// An answer is wanted even if all goes well.
pub const NLM_F_ACK: u16 = 4;
/// All objects are asked for.
pub const NLM_F_DUMP: u16 = 0x300;
/// Make it if it is not there.
pub const NLM_F_CREATE: u16 = 0x400;
/// Fail if it is there.
pub const NLM_F_EXCL: u16 = 0x200;
/// Append to the list.
pub const NLM_F_APPEND: u16 = 0x800;
/// The message says how an earlier one ended.
pub const NLMSG_ERROR: u16 = 2;
/// The last message of a dump.
pub const NLMSG_DONE: u16 = 3;

/// Marks an attribute that contains attributes.
const NLA_F_NESTED: u16 = 0x8000;
/// The bits of an attribute's type that say which one it is.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message type; for netfilter the subsystem in the high byte.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The number by which answers refer to the message.
    pub seq: u32,
    /// The address family (`nfgen_family`).
    pub family: u8,
    /// The version of the netfilter header.
    pub version: u8,
    /// The resource (`res_id`), in host byte order.
    pub resource: u16,
}

/// Writes messages one behind the other.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A writer with room for that many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    /// All that has been written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How many bytes have been written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes a message; `body` writes its attributes.
    pub fn message(&mut self, header: Header, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&header.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(header.flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&header.seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[header.family, header.version]);
        self.bytes.extend_from_slice(&header.resource.to_be_bytes());
        body(self);
        let len = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.patch(start, &len.to_ne_bytes());
    }

    /// Writes an attribute.
    pub fn attr(&mut self, kind: u16, data: &[u8]) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(data);
        self.close(start);
    }

    /// Writes an attribute that contains attributes.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.open(kind | NLA_F_NESTED);
        body(self);
        self.close(start);
    }

    /// Writes an attribute that contains attributes which have been read elsewhere.
    pub fn nested(&mut self, kind: u16, attributes: &[u8]) {
        self.attr(kind | NLA_F_NESTED, attributes);
    }

    /// Writes a number in network byte order, as netfilter wants its numbers.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Writes a long number in network byte order.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Writes a text with its closing zero.
    pub fn text(&mut self, kind: u16, text: &str) {
        let start = self.open(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    /// Sets the length and pads to four bytes; the padding is not part of the length. Callers keep nests below
    /// the 65,535 bytes an attribute can have by starting a new message in time.
    fn close(&mut self, start: usize) {
        let len = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.patch(start, &len.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn patch(&mut self, at: usize, data: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + data.len()) {
            place.copy_from_slice(data);
        }
    }
}

/// A message as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The message type.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Its number, or the number of the message it answers.
    pub seq: u32,
    /// The port of the socket that it answers or, in a report of a change, that made the change.
    pub port: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// The messages in a buffer; ends at the first one that is cut off or impossible.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Reads messages from the beginning of a buffer.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What could not be read; empty at the regular end.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = usize::try_from(u32::from_ne_bytes(array(self.rest, 0)?)).ok()?;
        let body = self.rest.get(HEADER..len)?;
        let message = Message {
            kind: u16::from_ne_bytes(array(self.rest, 4)?),
            flags: u16::from_ne_bytes(array(self.rest, 6)?),
            seq: u32::from_ne_bytes(array(self.rest, 8)?),
            port: u32::from_ne_bytes(array(self.rest, 12)?),
            body,
        };
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes in a buffer; ends at the first one that is cut off or impossible.
#[derive(Clone, Debug)]
pub struct Attrs<'a> {
    rest: &'a [u8],
}

impl<'a> Attrs<'a> {
    /// Reads attributes from the beginning of a buffer.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first attribute of that kind.
    #[must_use]
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find_map(|(found, data)| (found == kind).then_some(data))
    }

    /// The attributes inside the first attribute of that kind.
    #[must_use]
    pub fn nest(&self, kind: u16) -> Option<Self> {
        self.find(kind).map(Self::new)
    }

    /// A number in network byte order.
    #[must_use]
    pub fn be32(&self, kind: u16) -> Option<u32> {
        self.find(kind).and_then(|data| array(data, 0)).map(u32::from_be_bytes)
    }

    /// A long number in network byte order.
    #[must_use]
    pub fn be64(&self, kind: u16) -> Option<u64> {
        self.find(kind).and_then(|data| array(data, 0)).map(u64::from_be_bytes)
    }

    /// A text, up to its closing zero.
    #[must_use]
    pub fn text(&self, kind: u16) -> Option<&'a str> {
        self.find(kind).and_then(text)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16::from_ne_bytes(array(self.rest, 0)?));
        let kind = u16::from_ne_bytes(array(self.rest, 2)?) & NLA_TYPE_MASK;
        let data = self.rest.get(4..len)?;
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    }
}

/// Bytes as a text, up to the first zero.
#[must_use]
pub fn text(data: &[u8]) -> Option<&str> {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    data.get(..end).and_then(|data| std::str::from_utf8(data).ok())
}

/// `N` bytes from a place in a buffer, if they are there.
#[must_use]
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
