//! The filter tables of others on this node (docker's, firewalld's, ufw's and the like): whether one of them drops what
//! is forwarded between clients and pods. Such a table is named and left alone: its owner has a reason for it.
//!
//! Every base chain of type filter in the forward hook is judged for two packets, the first of a new connection that our
//! table has translated and an answer to it. What the rules look at and is not known here, the client's address above
//! all, may turn out either way; so a chain drops for certain, or perhaps, or does not.
//!
//! The rules are read over netlink, chain by chain and only those that the two packets reach; `iptables-nft` puts its
//! rules there too. Those of `iptables-legacy` are not seen.

mod judge;
mod packet;
mod read;

use std::collections::BTreeSet;
use std::io;

use landfall_core::addr::Family;

use self::judge::{Fate, Judge};
use self::packet::{Packet, packets};
use self::read::{BaseChain, Reader};
use super::{Finding, Kind, Surroundings};

/// The family of netfilter that carries both (`NFPROTO_INET`), and each alone.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The tables that are none of the others: ours, and kube-proxy's, which only refuses what is addressed to Services.
const KNOWN: [&str; 2] = [crate::datapath::TABLE, "kube-proxy"];

/// Looks at every chain that could drop what is forwarded. Needs `CAP_NET_ADMIN`.
pub fn check(around: &Surroundings) -> io::Result<BTreeSet<Finding>> {
    let mut reader = Reader::open()?;
    let chains = reader.forward_chains()?;
    let foreign = chains.iter().filter(|chain| !KNOWN.contains(&chain.table.as_str()));
    Ok(foreign.filter_map(|chain| judged(&mut reader, chain, around)).collect())
}

fn judged(reader: &mut Reader, chain: &BaseChain, around: &Surroundings) -> Option<Finding> {
    let mut worst: Option<(Fate, Packet)> = None;
    for packet in packets(around).into_iter().filter(|packet| chain.sees(packet.family)) {
        let fate = Judge::new(reader, chain, &packet).fate();
        if worst.as_ref().is_none_or(|(known, _)| fate > *known) {
            worst = Some((fate, packet));
        }
    }
    let (fate, packet) = worst?;
    let (breaks, verb) = match fate {
        Fate::Passes => return None,
        Fate::Unclear => (false, "may drop"),
        Fate::Dropped => (true, "drops"),
    };
    let policy = if chain.drops { "policy drop" } else { "policy accept" };
    let name = format!("chain {} of table {} {} ({policy})", chain.name, chain.family_name(), chain.table);
    let message = format!("{name} {verb} {packet}: let packets to and from the pods pass there");
    Some(Finding { kind: Kind::ForeignFilter, breaks, message })
}

impl BaseChain {
    fn sees(&self, family: Family) -> bool {
        match self.family {
            INET => true,
            IPV4 => family == Family::V4,
            IPV6 => family == Family::V6,
            _ => false,
        }
    }

    fn family_name(&self) -> &'static str {
        match self.family {
            IPV4 => "ip",
            IPV6 => "ip6",
            _ => "inet",
        }
    }
}
