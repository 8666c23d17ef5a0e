//! What `nft` stores with a map so that it can print it: the kernel keeps it and never looks inside.
//!
//! A map whose key has a plain number in it cannot be named by `nft`'s types, so `nft` writes down the expression
//! the type was taken from (`typeof …`). Without that record it lists the map as unreadable numbers. The format is
//! `nft`'s own (`libnftnl`'s `udata.h`, `nftables`' `src/expression.c`, `payload.c`, `meta.c`, `numgen.c`): type,
//! length and value with one byte each for type and length. The hash that really produces the number is recorded
//! as `numgen`: `nft` 1.0.6 crashes on a record of `jhash`.
//!
//! Comments of elements are such records too.

use landfall_core::addr::Family;

use super::model::MAX_COMMENT;

/// `NFTNL_UDATA_SET_*`: what a record is about.
const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
const DATA_INTERVAL: u8 = 6;

/// `BYTEORDER_HOST_ENDIAN` of `nft`.
const HOST_BYTE_ORDER: u32 = 1;

/// `NFTNL_UDATA_SET_ELEM_COMMENT`.
const COMMENT: u8 = 0;

/// `enum expr_types` of `nft`.
const EXPR_PAYLOAD: u32 = 7;
const EXPR_META: u32 = 9;
const EXPR_CONCAT: u32 = 13;
const EXPR_NUMGEN: u32 = 23;

/// `enum proto_desc_id` of `nft`: the generic transport header, and the two IP headers.
const PROTO_TH: u32 = 11;
const PROTO_IP: u32 = 12;
const PROTO_IP6: u32 = 13;

/// Field numbers in `nft`'s header descriptions.
const TH_DPORT: u32 = 2;
const IP_DADDR: u32 = 12;
const IP6_DADDR: u32 = 9;

/// `NFT_META_L4PROTO`.
const META_L4PROTO: u32 = 16;
/// `NFT_NG_RANDOM`.
const NUMGEN_RANDOM: u32 = 1;

/// The record of `typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport`, or the
/// same with `ip6`: the map of endpoints.
#[must_use]
pub fn endpoints(family: Family) -> Vec<u8> {
    let daddr = match family {
        Family::V4 => expr(EXPR_PAYLOAD, &[number(0, PROTO_IP), number(1, IP_DADDR)]),
        Family::V6 => expr(EXPR_PAYLOAD, &[number(0, PROTO_IP6), number(1, IP6_DADDR)]),
    };
    let protocol = expr(EXPR_META, &[number(0, META_L4PROTO)]);
    let dport = expr(EXPR_PAYLOAD, &[number(0, PROTO_TH), number(1, TH_DPORT)]);
    let index = expr(EXPR_NUMGEN, &[number(0, NUMGEN_RANDOM), number(1, 2), number(2, 0)]);
    [
        number(KEY_BYTE_ORDER, 0),
        number(DATA_BYTE_ORDER, 0),
        record(KEY_TYPEOF, &concat(&[&daddr, &protocol, &dport, &index])),
        record(DATA_TYPEOF, &concat(&[&daddr, &dport])),
        number(DATA_INTERVAL, 0),
    ]
    .concat()
}

/// The record of a map to [`Field::Class`](super::model::Field::Class): without it `nft` takes these numbers for ones
/// in network byte order.
#[must_use]
pub fn to_classes() -> Vec<u8> {
    [number(KEY_BYTE_ORDER, 0), number(DATA_BYTE_ORDER, HOST_BYTE_ORDER)].concat()
}

/// The record of a map from [`Field::Class`](super::model::Field::Class), for the same reason.
#[must_use]
pub fn from_classes() -> Vec<u8> {
    [number(KEY_BYTE_ORDER, HOST_BYTE_ORDER), number(DATA_BYTE_ORDER, 0)].concat()
}

/// The record of a comment: the text and a zero byte. What is too long is cut.
#[must_use]
pub fn comment(text: &str) -> Vec<u8> {
    let text = text.get(..text.floor_char_boundary(MAX_COMMENT)).unwrap_or_default();
    record(COMMENT, &[text.as_bytes(), &[0]].concat())
}

/// The comment in a record of [`comment`].
#[must_use]
pub fn commented(data: &[u8]) -> Option<&str> {
    let (&[kind, len], rest) = data.split_first_chunk()?;
    let text = rest.get(..usize::from(len))?.strip_suffix(&[0])?;
    (kind == COMMENT).then(|| std::str::from_utf8(text).ok())?
}

/// An expression: its type, and what it was made of.
fn expr(kind: u32, parts: &[Vec<u8>]) -> Vec<u8> {
    [number(0, kind), record(1, &parts.concat())].concat()
}

/// A concatenation of expressions: each is a record numbered by its place.
fn concat(parts: &[&Vec<u8>]) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = (0u8..).zip(parts).map(|(place, part)| record(place, part)).collect();
    expr(EXPR_CONCAT, &parts)
}

fn number(kind: u8, value: u32) -> Vec<u8> {
    record(kind, &value.to_ne_bytes())
}

/// The records here are short and fixed: the greatest is under a hundred bytes.
fn record(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut made = vec![kind, u8::try_from(data.len()).unwrap_or(u8::MAX)];
    made.extend_from_slice(data);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write as _;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    /// What nft 1.0.6 itself stored for the same declarations.
    #[test]
    #[cfg(target_endian = "little")]
    fn the_record_is_byte_for_byte_the_one_nft_writes() {
        let v4 = "000400000000010400000000036000040d00000001580014000407000000010c00040c00000001040c000000010e\
                  00040900000001060004100000000214000407000000010c00040b000000010402000000031a0004170000000112\
                  000401000000010402000000020400000000043400040d000000012c0014000407000000010c00040c0000000104\
                  0c0000000114000407000000010c00040b000000010402000000060400000000";
        let v6 = "000400000000010400000000036000040d00000001580014000407000000010c00040d000000010409000000010e\
                  00040900000001060004100000000214000407000000010c00040b000000010402000000031a0004170000000112\
                  000401000000010402000000020400000000043400040d000000012c0014000407000000010c00040d0000000104\
                  090000000114000407000000010c00040b000000010402000000060400000000";
        assert_eq!(hex(&endpoints(Family::V4)), v4);
        assert_eq!(hex(&endpoints(Family::V6)), v6);
    }
}
