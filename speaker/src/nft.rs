//! nftables over netlink, without the `nft` program and without a C library.
//!
//! [`model`] has the things of a table as values, [`encode`] turns a batch of them into the bytes of one netlink
//! transaction, [`decode`] goes the other way and reads the kernel's answers, and [`socket`] is the only place
//! that talks to the kernel. [`conntrack`] is the neighbour subsystem, for flows whose endpoint is gone.
//!
//! Numbers come from the kernel's user API: `linux/netfilter/nf_tables.h`, `nfnetlink.h`,
//! `nfnetlink_conntrack.h` and `linux/netlink.h`.

pub mod conntrack;
pub mod decode;
pub mod encode;
pub mod model;
mod numbers;
pub mod socket;
pub mod userdata;
pub mod wire;

pub use socket::Kernel;
