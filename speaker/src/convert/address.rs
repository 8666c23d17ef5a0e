//! Addresses and prefixes as Kubernetes reads them.
//!
//! The API server accepts what old releases of Go accepted: IPv4 octets and prefix lengths with leading zeros,
//! read as decimal (`172.30.0.041` is 172.30.0.41), and IPv4 in IPv6 clothing (`::ffff:192.0.2.1`). Objects
//! with such texts exist, so they are read in the same way here (`k8s.io/utils/net`, `ParseIPSloppy`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An address; `None` when the text is none.
#[must_use]
pub fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if !text.contains(':') {
        return sloppy_v4(text).map(IpAddr::V4);
    }
    // The IPv4 tail of an IPv6 address may carry leading zeros too.
    let v6: Ipv6Addr = match text.rsplit_once(':') {
        Some((head, tail)) if tail.contains('.') => format!("{head}:{}", sloppy_v4(tail)?).parse().ok()?,
        _ => text.parse().ok()?,
    };
    Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
}

/// A prefix with its host bits cleared; `None` when the text is none. A bare address is not a prefix.
#[must_use]
pub fn prefix(text: &str) -> Option<IpNet> {
    let (addr_text, length) = text.trim().split_once('/')?;
    let length = decimal(length, 128)?;
    let addr = address(addr_text)?;
    // A mapped address counts its prefix from the start of the IPv6 form.
    let length = if addr.is_ipv4() && addr_text.contains(':') { length.checked_sub(96)? } else { length };
    IpNet::new(addr, u8::try_from(length).ok()?).ok().map(|net| net.trunc())
}

fn sloppy_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = u8::try_from(decimal(parts.next()?, 255)?).ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// A decimal number up to `max`, digits only: no sign, no blank, any number of leading zeros.
fn decimal(text: &str, max: u16) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let text = text.trim_start_matches('0');
    let value = if text.is_empty() { 0 } else { text.parse().ok()? };
    (value <= max).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_kubernetes_reads_them() {
        // S33
        for (text, want) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("172.30.0.041", Some("172.30.0.41")),
            ("001.002.003.004", Some("1.2.3.4")),
            (" 192.0.2.1 ", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("::ffff:192.0.002.01", Some("192.0.2.1")),
            ("64:ff9b::192.0.2.033", Some("64:ff9b::192.0.2.33")),
            ("192.0.2", None),
            ("192.0.2.1.5", None),
            ("192.0.2.256", None),
            ("192.0.2.-1", None),
            ("192.0.2.+1", None),
            ("0x7f.0.0.1", None),
            ("2001:db8::1%eth0", None),
            ("2001:db8::g", None),
            ("", None),
            ("node.example", None),
        ] {
            assert_eq!(address(text), want.map(|w| w.parse().unwrap()), "{text:?}");
        }
    }

    #[test]
    fn prefixes_lose_their_host_bits() {
        // S33, S62, S67
        for (text, want) in [
            ("192.0.2.0/24", Some("192.0.2.0/24")),
            ("192.0.2.77/24", Some("192.0.2.0/24")),
            ("203.0.113.000/025", Some("203.0.113.0/25")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            (" 192.0.2.0/24\t", Some("192.0.2.0/24")),
            ("2001:db8::77/64", Some("2001:db8::/64")),
            ("2001:db8::1/128", Some("2001:db8::1/128")),
            ("::/0", Some("::/0")),
            ("::ffff:192.0.2.77/120", Some("192.0.2.0/24")),
            ("::ffff:192.0.2.0/24", None),
            ("192.0.2.0/33", None),
            ("2001:db8::/129", None),
            ("192.0.2.0/-1", None),
            ("192.0.2.0/", None),
            ("192.0.2.1", None),
            ("2001:db8::1", None),
            ("192.0.2.0/24/8", None),
            ("everybody", None),
        ] {
            assert_eq!(prefix(text), want.map(|w| w.parse().unwrap()), "{text:?}");
        }
    }
}
