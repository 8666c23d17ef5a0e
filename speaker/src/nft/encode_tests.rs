use std::sync::Arc;

use proptest::prelude::*;

use super::super::decode;
use super::super::wire::Messages;
use super::*;

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn message(bytes: &[u8], index: usize) -> String {
    let found = Messages::new(bytes).nth(index).unwrap();
    format!("{:04x} {:03x} {} {}", found.kind, found.flags, found.seq, hex(found.body))
}

fn encoded(ops: Vec<Op>) -> Vec<u8> {
    batch(&Batch { table: Arc::from("t"), ops })
}

/// What the kernel has for the same rule when `nft` 1.0.6 loads it, expression by expression.
#[test]
#[cfg(target_endian = "little")]
fn expressions_are_byte_for_byte_those_of_nft() {
    for (what, expr, expected) in [
        (
            "meta load l4proto => reg 9",
            Expr::Meta(Meta::Protocol, Reg(1)),
            "24000180090001006d657461000000001400028008000100000000090800020000000010",
        ),
        (
            "payload load 4b @ network header + 16",
            Expr::Payload { header: PacketHeader::Network, offset: 16, len: 4, into: Reg(0) },
            "340001800c0001007061796c6f61640024000280080001000000000808000200000000010800030000000010080004000\
             0000004",
        ),
        (
            "immediate reg 0 drop",
            Expr::Verdict(Verdict::Drop),
            "300001800e000100696d6d6564696174650000001c0002800800010000000000100002800c0002800800010000000000",
        ),
        (
            "reject with icmpx port-unreachable",
            Expr::Reject(Refusal::PortUnreachable),
            "240001800b00010072656a65637400001400028008000100000000020500020001000000",
        ),
        (
            "ct load proto_dst, dir original",
            Expr::Ct(Ct::OriginalPort, Reg(2)),
            "280001800700010063740000 1c000280080001000000000a080002000000000c0500030000000000",
        ),
    ] {
        let mut writer = Writer::default();
        expression(&mut writer, &expr);
        assert_eq!(hex(&writer.into_bytes()), expected.replace(' ', ""), "{what}");
    }
}

#[test]
#[cfg(target_endian = "little")]
fn a_batch_is_framed_and_numbered_by_operation() {
    let ops = vec![
        Op::AddTable(TableFlags { owner: true, persist: true }),
        Op::DeleteChain(Arc::from("c")),
        Op::Insert {
            set: Arc::from("m"),
            id: None,
            elements: vec![Element::of(
                Bytes::new(&[192, 0, 2, 1]).unwrap(),
                Value::Verdict(Verdict::Goto(Arc::from("n2"))),
            )],
        },
    ];
    let bytes = encoded(ops);
    assert_eq!(message(&bytes, 0), "0010 001 0 0000000a");
    assert_eq!(message(&bytes, 1), "0a00 401 1 0100000006000100740000000800020000000006");
    assert_eq!(message(&bytes, 2), "0a05 001 2 0100000006000100740000000600030063000000");
    let element = [
        "01000000",                 // inet
        "0600010074000000",         // table t
        "060002006d000000",         // set m
        "2c00038028000180",         // elements, the first
        "0c00018008000100c0000201", // key
        "1800028014000280",         // data, a verdict
        "08000100fffffffc",         // goto
        "070002006e320000",         // n2
    ];
    assert_eq!(message(&bytes, 3), format!("0a0c 601 3 {}", element.concat()));
    assert_eq!(message(&bytes, 4), "0011 001 4 0000000a");
}

#[test]
fn many_elements_are_several_messages_of_one_number() {
    let elements: Vec<Element> = (0..5_000_u32)
        .map(|index| {
            let key = Bytes::EMPTY.with(&index.to_be_bytes()).with(&[6]).with(&[0, 80]);
            Element::of(key, Value::Data(Bytes::EMPTY.with(&[10, 0, 0, 1]).with(&[0, 80])))
        })
        .collect();
    let op = Op::Insert { set: Arc::from("m"), id: None, elements };
    let bytes = encoded(vec![op.clone()]);
    let lengths: Vec<usize> =
        Messages::new(&bytes).filter(|message| message.seq == 1).map(|message| message.body.len()).collect();
    assert!(lengths.len() > 3 && lengths.iter().all(|len| *len < 65_536), "{lengths:?}");
    assert_eq!(decode::batch(&bytes).unwrap().ops, [op]);
}

fn name() -> impl Strategy<Value = Name> {
    "[a-z][a-z0-9_]{0,14}".prop_map(Arc::from)
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..=max).prop_map(|bytes| Bytes::new(&bytes).unwrap())
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let field = prop::sample::select(vec![
        Field::Family,
        Field::Integer,
        Field::Ipv4,
        Field::Ipv6,
        Field::Protocol,
        Field::Port,
        Field::Class,
    ]);
    prop::collection::vec(field, 1..=5)
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Drop),
        Just(Verdict::Accept),
        name().prop_map(Verdict::Goto),
        name().prop_map(Verdict::Jump)
    ]
}

fn reg() -> impl Strategy<Value = Reg> {
    (0u8..16).prop_map(Reg)
}

fn families() -> impl Strategy<Value = Family> {
    prop::sample::select(vec![Family::V4, Family::V6])
}

fn exprs() -> impl Strategy<Value = Expr> {
    let header = prop::sample::select(vec![PacketHeader::Network, PacketHeader::Transport]);
    let into = prop_oneof![Just(Into::Nothing), Just(Into::Verdict), reg().prop_map(Into::Reg)];
    let ct = prop::sample::select(vec![
        Ct::State,
        Ct::Status,
        Ct::OriginalSource(Family::V4),
        Ct::OriginalSource(Family::V6),
        Ct::OriginalDestination(Family::V4),
        Ct::OriginalDestination(Family::V6),
        Ct::OriginalPort,
    ]);
    let kind = prop::sample::select(vec![NatKind::Source, NatKind::Destination]);
    prop_oneof![
        (prop::sample::select(vec![Meta::Family, Meta::Protocol, Meta::Priority]), reg())
            .prop_map(|(key, to)| Expr::Meta(key, to)),
        (header, any::<u32>(), any::<u32>(), reg()).prop_map(|(header, offset, len, into)| Expr::Payload {
            header,
            offset,
            len,
            into
        }),
        (ct, reg()).prop_map(|(key, to)| Expr::Ct(key, to)),
        reg().prop_map(Expr::SourceType),
        reg().prop_map(Expr::SetPriority),
        (reg(), bytes(16)).prop_map(|(into, data)| Expr::Load(into, data)),
        (reg(), bytes(16)).prop_map(|(from, data)| Expr::Equal(from, data)),
        (reg(), bytes(16)).prop_map(|(from, data)| Expr::Differs(from, data)),
        (reg(), bytes(16)).prop_map(|(at, mask)| Expr::Mask(at, mask)),
        (name(), any::<Option<u32>>(), reg(), into).prop_map(|(set, id, key, into)| Expr::Lookup {
            set,
            id,
            key,
            into
        }),
        (name(), reg(), reg(), any::<u64>()).prop_map(|(map, key, data, timeout_ms)| Expr::Renew {
            map,
            key,
            data,
            timeout_ms
        }),
        (reg(), any::<u32>(), reg(), any::<[u32; 3]>()).prop_map(
            |(from, len, into, [modulus, seed, offset])| {
                Expr::Hash { from, len, into, modulus, seed, offset }
            }
        ),
        (kind, families(), reg(), prop::option::of(reg())).prop_map(|(kind, family, addr, port)| Expr::Nat {
            kind,
            family,
            addr,
            port
        }),
        Just(Expr::Masquerade),
        Just(Expr::Redirect),
        Just(Expr::Reject(Refusal::TcpReset)),
        Just(Expr::Reject(Refusal::PortUnreachable)),
        Just(Expr::Counter),
        verdicts().prop_map(Expr::Verdict),
    ]
}

fn elements() -> impl Strategy<Value = Vec<Element>> {
    let value =
        prop_oneof![Just(Value::None), verdicts().prop_map(Value::Verdict), bytes(MAX).prop_map(Value::Data)];
    let life = any::<Option<[u64; 2]>>().prop_map(|life| {
        life.map(|[timeout_ms, left_ms]| Box::new(super::super::model::Life { timeout_ms, left_ms }))
    });
    let last = prop::option::of(bytes(MAX).prop_map(Box::new));
    let comment = prop::option::of(prop::string::string_regex("[ -~]{0,127}").unwrap());
    let element = (bytes(MAX), last, any::<bool>(), value, life, comment).prop_map(
        |(key, last, range_end, value, life, comment)| Element {
            key,
            last,
            range_end,
            value,
            life,
            comment: comment.map(|text| Box::new(super::super::model::Comment(Arc::from(text)))),
        },
    );
    prop::collection::vec(element, 0..20)
}

const MAX: usize = super::super::model::MAX_BYTES;

fn sets() -> impl Strategy<Value = Set> {
    let data = prop_oneof![Just(Data::Verdict), fields().prop_map(Data::Fields)];
    let options = (any::<[bool; 3]>(), any::<Option<u32>>());
    let userdata = prop::collection::vec(any::<u8>(), 0..40);
    (name(), any::<u32>(), fields(), prop::option::of(data), options, userdata).prop_map(
        |(name, id, key, data, ([interval, dynamic, anonymous], size), userdata)| Set {
            name,
            id,
            key,
            data,
            interval,
            dynamic,
            anonymous,
            size,
            userdata,
        },
    )
}

fn bases() -> impl Strategy<Value = Base> {
    let kind = prop::sample::select(vec![ChainKind::Filter, ChainKind::Nat]);
    let hook = prop::sample::select(vec![Hook::Prerouting, Hook::Output, Hook::Postrouting]);
    (kind, hook, any::<i32>()).prop_map(|(kind, hook, priority)| Base { kind, hook, priority })
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        any::<[bool; 2]>().prop_map(|[owner, persist]| Op::AddTable(TableFlags { owner, persist })),
        Just(Op::DeleteTable),
        sets().prop_map(Op::AddSet),
        (name(), prop::option::of(bases())).prop_map(|(name, base)| Op::AddChain(name, base)),
        name().prop_map(Op::DeleteChain),
        (name(), prop::collection::vec(exprs(), 0..12)).prop_map(|(chain, exprs)| Op::AddRule(chain, exprs)),
        (name(), any::<Option<u32>>(), elements()).prop_map(|(set, id, elements)| Op::Insert {
            set,
            id,
            elements
        }),
        (name(), elements()).prop_map(|(set, elements)| Op::Remove { set, elements }),
    ]
}

proptest! {
    #[test]
    fn a_batch_is_read_back_as_it_was_written(table in name(), ops in prop::collection::vec(ops(), 1..12)) {
        let written = Batch { table, ops };
        prop_assert_eq!(decode::batch(&batch(&written)), Ok(written));
    }

    #[test]
    fn a_damaged_batch_is_read_without_harm(
        ops in prop::collection::vec(ops(), 1..8),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = encoded(ops);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // Whether it can still be read depends on where it was hit.
        let read = decode::batch(&bytes);
        prop_assert!(read.is_err() || read.is_ok_and(|read| read.ops.len() <= bytes.len()));
    }
}
