//! Changes of a table by others, as the kernel tells them to everybody who listens.
//!
//! For kernels on which a table cannot be kept from others. Cheap: what a foreign transaction costs here is what it
//! changed, and the table is never listed.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::numbers::{INET, SUBSYS, msg};
use super::port::Port;
use super::socket::receive;
use super::wire::{Attrs, FAMILY_HEADER, Messages};

/// What has been heard of the tables we made.
#[derive(Debug)]
pub struct Watch<P> {
    port: P,
    /// The port of those changes that are our own.
    ours: u32,
    /// The tables we made, and whether somebody else has changed them since.
    tables: BTreeMap<String, bool>,
    /// Whether something could not be heard: it may have been anything.
    lost: bool,
}

/// One change of an object of a table of the family `inet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch<'a> {
    /// The port of the socket it was made through.
    pub port: u32,
    /// The table.
    pub table: &'a str,
    /// Whether it is that the table was made.
    pub made: bool,
}

/// The changes in a datagram.
pub fn touches(bytes: &[u8]) -> impl Iterator<Item = Touch<'_>> {
    const NEWTABLE: u16 = SUBSYS | msg::NEWTABLE;
    const NEWGEN: u16 = SUBSYS | msg::NEWGEN;
    Messages::new(bytes).filter_map(|message| {
        let inet = message.body.first() == Some(&INET);
        // A generation belongs to no table.
        if !inet || message.kind & 0xff00 != SUBSYS || message.kind == NEWGEN {
            return None;
        }
        // Whatever the object is, the name of its table is attribute 1.
        let table = Attrs::new(message.body.get(FAMILY_HEADER..)?).text(1)?;
        Some(Touch { port: message.port, table, made: message.kind == NEWTABLE })
    })
}

impl<P: Port> Watch<P> {
    /// Watches through a socket that hears of changes; those made through `ours` are our own.
    pub const fn new(port: P, ours: u32) -> Self {
        Self { port, ours, tables: BTreeMap::new(), lost: false }
    }

    /// Whether somebody else has changed the table since we made it, or that cannot be told.
    pub fn foreign(&self, table: &str) -> bool {
        self.lost || self.tables.get(table).copied().unwrap_or(false)
    }

    /// Takes in what has happened so far. Whether all of it could be heard.
    pub fn listen(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Errno> {
        let Self { port, ours, tables, lost } = self;
        let mut see = |bytes: &[u8]| {
            for touch in touches(bytes) {
                match (touch.port == *ours, touch.made) {
                    // With the table everything in it was made by us.
                    (true, true) => {
                        tables.insert(touch.table.to_owned(), false);
                        *lost = false;
                    }
                    (true, false) => {}
                    (false, _) => {
                        tables.entry(touch.table.to_owned()).and_modify(|foreign| *foreign = true);
                    }
                }
            }
        };
        let mut complete = true;
        loop {
            match receive(port, buffer, &mut see) {
                Ok(()) => break,
                // Told once for all that was lost so far; the rest waits behind it.
                Err(Errno::ENOBUFS) => complete = false,
                Err(errno) => return Err(errno),
            }
        }
        self.lost |= !complete;
        Ok(complete)
    }

    /// What was lost was our own; with it we made the table, or left it as untouched by others as it was.
    pub fn lost_our_own(&mut self, table: &str) {
        self.lost = false;
        self.tables.insert(table.to_owned(), false);
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
