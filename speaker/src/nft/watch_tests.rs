use std::collections::VecDeque;
use std::io;

use super::*;
use crate::nft::numbers::table;
use crate::nft::wire::{Header, Writer};

const OURS: u32 = 7;
const OTHER: u32 = 9;

#[derive(Debug)]
struct Heard(VecDeque<io::Result<Vec<u8>>>);

impl Port for Heard {
    fn number(&self) -> u32 {
        0
    }

    fn send(&mut self, _: &[u8]) -> io::Result<()> {
        Err(Errno::EOPNOTSUPP.into())
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.extend(self.0.pop_front().unwrap_or(Err(Errno::EAGAIN.into()))?);
        Ok(())
    }

    fn make_room(&mut self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }
}

fn change(kind: u16, family: u8, by: u32, name: &str) -> Vec<u8> {
    let mut writer = Writer::default();
    let header = Header { kind: SUBSYS | kind, flags: 0, seq: 1, family, version: 0, resource: 0 };
    writer.message(header, |w| w.text(table::NAME, name));
    let mut bytes = writer.into_bytes();
    bytes[12..16].copy_from_slice(&by.to_ne_bytes());
    bytes
}

/// Whether the table counts as changed by others after having heard this, datagram by datagram.
fn foreign(heard: Vec<io::Result<Vec<u8>>>) -> bool {
    let mut watch = Watch::new(Heard(heard.into()), OURS);
    watch.listen(&mut Vec::new()).unwrap();
    watch.foreign("landfall")
}

fn made() -> Vec<u8> {
    change(msg::NEWTABLE, INET, OURS, "landfall")
}

#[test]
fn a_change_is_foreign_when_another_socket_made_it_in_our_table() {
    for kind in [
        msg::NEWCHAIN,
        msg::DELCHAIN,
        msg::NEWRULE,
        msg::NEWSET,
        msg::NEWSETELEM,
        msg::DELSETELEM,
        msg::DELTABLE,
    ] {
        let by = |port, family, name| foreign(vec![Ok(made()), Ok(change(kind, family, port, name))]);
        assert!(by(OTHER, INET, "landfall"), "{kind}");
        assert!(!by(OURS, INET, "landfall"), "{kind}");
        assert!(!by(OTHER, INET, "kube-proxy"), "{kind}");
        assert!(!by(OTHER, 2, "landfall"), "a table of the same name in another family, {kind}");
    }
}

#[test]
fn a_table_made_anew_is_ours_again() {
    let touched = || Ok(change(msg::DELSETELEM, INET, OTHER, "landfall"));
    assert!(!foreign(vec![touched(), Ok(made())]));
    assert!(foreign(vec![Ok(made()), touched()]));
    // In one datagram as well.
    assert!(!foreign(vec![Ok([touched().unwrap(), made()].concat())]));
}

#[test]
fn what_was_lost_may_have_been_anything_until_the_table_is_made_anew() {
    let lost = || Err(Errno::ENOBUFS.into());
    let mut watch = Watch::new(Heard([Ok(made()), lost()].into()), OURS);
    assert!(!watch.listen(&mut Vec::new()).unwrap());
    assert!(watch.foreign("landfall"));
    watch.port.0.push_back(Ok(made()));
    assert!(watch.listen(&mut Vec::new()).unwrap());
    assert!(!watch.foreign("landfall"));
}

#[test]
fn an_interruption_loses_nothing() {
    let touched = Ok(change(msg::DELSETELEM, INET, OTHER, "landfall"));
    assert!(foreign(vec![Ok(made()), Err(Errno::EINTR.into()), touched]));
}
