//! What the speaker does with the host around its tables: ports, kernel parameters and the rules of others, each in a
//! network namespace of its own. Root, iproute2, nftables and iptables are needed; without them the tests fail.

#[cfg(test)]
mod foreign;
#[cfg(test)]
mod health;
#[cfg(test)]
#[allow(dead_code, reason = "these tests need no switch")]
#[path = "../support/host.rs"]
mod host;
#[cfg(test)]
mod sysctls;
