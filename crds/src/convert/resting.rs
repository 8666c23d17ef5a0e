//! The addresses that rest, as the status of a pool keeps them over a restart of the controller.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::pool::{AddressPoolStatus, MAX_RESTING, RestingAddress};

/// Reads the list: addresses with the time until which they rest, in Unix milliseconds. What is no address is left
/// out: the list was written by us, and a hand that spoils it can only shorten a rest.
pub fn read(status: &AddressPoolStatus) -> impl Iterator<Item = (IpAddr, i64)> {
    status
        .resting
        .iter()
        .filter_map(|resting| Some((resting.address.parse().ok()?, resting.until.0.as_millisecond())))
}

/// Writes the list, in order of time and then of address. Of more than [`MAX_RESTING`] those stay that rest longest. The
/// time is in whole seconds, as the API server keeps it, and rounded up: nobody gets an address too early.
#[must_use]
pub fn write(resting: impl IntoIterator<Item = (IpAddr, i64)>) -> Vec<RestingAddress> {
    let up = |ms: i64| ms.div_euclid(1000) + i64::from(ms.rem_euclid(1000) > 0);
    let mut list: Vec<(i64, IpAddr)> = resting.into_iter().map(|(addr, until)| (up(until), addr)).collect();
    list.sort_unstable();
    let spare = list.len().saturating_sub(MAX_RESTING);
    list.into_iter()
        .skip(spare)
        .filter_map(|(until, addr)| {
            let until = Time(Timestamp::from_second(until).ok()?);
            Some(RestingAddress { address: addr.to_string(), until })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_rests_survives_a_restart_and_never_rests_shorter() {
        // A67
        let resting = [(addr("2001:db8::7"), 1_767_225_600_001), (addr("192.0.2.7"), 1_767_225_600_000)];
        let status = AddressPoolStatus { resting: write(resting), ..AddressPoolStatus::default() };
        let stored = serde_json::to_value(&status).unwrap();
        assert_eq!(
            stored["resting"],
            json!([
                {"address": "192.0.2.7", "until": "2026-01-01T00:00:00Z"},
                {"address": "2001:db8::7", "until": "2026-01-01T00:00:01Z"},
            ])
        );
        let again: AddressPoolStatus = serde_json::from_value(stored).unwrap();
        let read: Vec<_> = read(&again).collect();
        assert_eq!(read, [(addr("192.0.2.7"), 1_767_225_600_000), (addr("2001:db8::7"), 1_767_225_601_000)]);
        assert_eq!(write(read), again.resting, "written again it is the same");
    }

    #[test]
    fn of_too_many_those_stay_that_rest_longest() {
        let many = (0..5000_i64).map(|n| (addr(&format!("10.0.{}.{}", n / 250, n % 250)), n * 1000));
        let written = write(many);
        assert_eq!(written.len(), MAX_RESTING);
        let untils: Vec<_> = written.iter().map(|resting| resting.until.0.as_second()).collect();
        assert_eq!((untils.first(), untils.last()), (Some(&904), Some(&4_999)));
    }

    #[test]
    fn what_is_no_address_is_left_out() {
        let status: AddressPoolStatus = serde_json::from_value(json!({"resting": [
            {"address": "rubbish", "until": "2026-01-01T00:00:00Z"},
            {"address": "2001:db8::7", "until": "2026-01-01T00:00:00Z"},
        ]}))
        .unwrap();
        assert_eq!(read(&status).map(|(addr, _)| addr).collect::<Vec<_>>(), [addr("2001:db8::7")]);
    }
}
