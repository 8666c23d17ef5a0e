//! nftables over netlink, without the `nft` program and without a C library.
//!
//! [`model`] has the things of a table as values, [`encode`] turns a batch of them into the bytes of one netlink
//! transaction, [`decode`] goes the other way and reads the kernel's answers, and [`socket`] talks to the kernel through
//! a [`port`]. [`probe`] finds out at the start what a kernel lacks, [`watch`] what others do to our table where they
//! cannot be kept from it. [`conntrack`] is the neighbour subsystem, for flows whose endpoint is gone.
//!
//! Numbers come from the kernel's user API: `linux/netfilter/nf_tables.h`, `nfnetlink.h`,
//! `nfnetlink_conntrack.h` and `linux/netlink.h`.

pub mod conntrack;
pub mod decode;
pub mod encode;
pub mod model;
pub(crate) mod numbers;
pub mod port;
pub mod probe;
pub mod socket;
pub mod userdata;
pub mod watch;
pub mod wire;

pub use socket::Kernel;
