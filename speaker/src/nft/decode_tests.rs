use proptest::prelude::*;

use super::*;

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// One message; its length is put in front.
fn one(text: &str) -> Vec<Reply> {
    let rest = unhex(text);
    let len = u32::try_from(rest.len() + 4).unwrap();
    replies(&[&len.to_ne_bytes()[..], &rest].concat()).collect()
}

fn read(text: &str) -> Vec<Reply> {
    replies(&unhex(text)).collect()
}

#[test]
#[cfg(target_endian = "little")]
fn an_error_is_read_with_the_kernels_words() {
    // NLM_F_CAPPED | NLM_F_ACK_TLVS: error -17, the header of request 5, then a text.
    let error = "0200 0003 05000000 00000000 efffffff \
                 50000000 0c0a 0106 05000000 00000000 \
                 0c000100 616c726561647900";
    let [Reply::Ended { seq, errno, detail }] = &one(error)[..] else { panic!("{:?}", one(error)) };
    assert_eq!((*seq, *errno, detail.as_deref()), (5, 17, Some("already")));
}

#[test]
#[cfg(target_endian = "little")]
fn an_error_that_repeats_the_whole_request_is_read_too() {
    // Not capped: the request is 24 bytes long, the text follows it.
    let error = "0200 0002 07000000 00000000 feffffff \
                 18000000 0c0a 0100 07000000 00000000 0000000000000000 \
                 0c000100 6d697373696e6700";
    let [Reply::Ended { seq, errno, detail }] = &one(error)[..] else { panic!("{:?}", one(error)) };
    assert_eq!((*seq, *errno, detail.as_deref()), (7, 2, Some("missing")));
}

#[test]
#[cfg(target_endian = "little")]
fn generation_and_table_are_read() {
    let generation = "1c000000 0f0a 0000 01000000 00000000 00000000 08000100 0000002a";
    assert_eq!(read(generation), [Reply::Generation(42)]);
    let table = "000a 0000 01000000 00000000 01000000 \
                 06000100 74000000 08000200 00000006 08000300 00000005 \
                 0c000400 0000000000000007 08000700 00000bb8";
    let expected = TableFacts {
        name: "t".to_owned(),
        handle: 7,
        uses: 5,
        flags: TableFlags { owner: true, persist: true },
        owner: Some(3000),
    };
    assert_eq!(one(table), [Reply::Table(expected)]);
}

#[test]
#[cfg(target_endian = "little")]
fn what_follows_a_cut_message_is_not_read() {
    let generation = "1c000000 0f0a 0000 01000000 00000000 00000000 08000100 0000002a";
    assert_eq!(read(&format!("{generation} 1c000000 0f0a")), [Reply::Generation(42)]);
    // A length below that of a header would otherwise never end.
    assert_eq!(read("00000000 0f0a 0000 01000000 00000000"), []);
    assert_eq!(read("0f000000 0f0a 0000 01000000 00000000"), []);
}

#[test]
fn a_batch_without_its_end_is_no_batch() {
    assert_eq!(batch(&[]), Err(DecodeError::Incomplete));
    let whole = super::super::encode::batch(&Batch { table: "t".into(), ops: vec![Op::DeleteTable] });
    assert!(batch(&whole).is_ok());
    assert_eq!(batch(&whole[..whole.len() - 20]), Err(DecodeError::Incomplete));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
        prop_assert!(replies(&bytes).count() <= bytes.len() / 16);
        let _ = batch(&bytes);
    }

    #[test]
    fn any_body_of_a_known_message_is_read_without_harm(
        kind in prop::sample::select(vec![NLMSG_ERROR, SUBSYS, SUBSYS | msg::NEWGEN, SUBSYS | msg::NEWSETELEM]),
        flags in any::<u16>(),
        body in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        prop_assert_eq!(replies(&bytes).count(), 1);
    }
}
