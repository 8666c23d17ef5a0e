//! Text for people and JSON for programs, both from one [`Report`]. Pure: strings out.

use crate::report::{AddressView, Count, Report, ServiceView};

/// The report as two tables, each row one line, columns two spaces apart.
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::from("POOLS\n");
    if report.pools.is_empty() {
        text.push_str("none: no Service can get an address before there is an AddressPool\n");
    } else {
        let rows = report.pools.iter().map(|pool| {
            vec![
                pool.name.clone(),
                pool.ranges.join(","),
                count(pool.ipv4.as_ref()),
                count(pool.ipv6.as_ref()),
            ]
        });
        text.push_str(&columns(&["NAME", "RANGES", "IPV4", "IPV6"], rows));
    }
    text.push_str("\nSERVICES\n");
    if report.services.is_empty() {
        text.push_str("none of type LoadBalancer\n");
    } else {
        let header = ["NAMESPACE", "NAME", "ADDRESS", "OWNER", "STATE", "REASON"];
        text.push_str(&columns(&header, report.services.iter().flat_map(service_rows)));
    }
    text
}

/// The report as indented JSON with a final newline.
pub(crate) fn json(report: &Report) -> serde_json::Result<String> {
    serde_json::to_string_pretty(report).map(|mut text| {
        text.push('\n');
        text
    })
}

/// One row per address, so that a line answers who serves it; one row for a Service without any.
fn service_rows(service: &ServiceView) -> Vec<Vec<String>> {
    let row = |address: Option<&AddressView>| {
        vec![
            service.namespace.clone(),
            service.name.clone(),
            address.map_or_else(dash, |view| view.address.clone()),
            address.map_or_else(dash, owner),
            service.state.as_str().to_owned(),
            reason(service),
        ]
    };
    if service.addresses.is_empty() {
        vec![row(None)]
    } else {
        service.addresses.iter().map(|address| row(Some(address))).collect()
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn owner(address: &AddressView) -> String {
    if address.owners.is_empty() {
        return dash();
    }
    let names: Vec<String> =
        address.owners.iter().map(|owner| format!("{}@{}", owner.node, owner.interface)).collect();
    names.join(",")
}

fn reason(service: &ServiceView) -> String {
    match (service.reason.as_str(), service.message.as_str()) {
        ("", "") => dash(),
        ("", message) => message.to_owned(),
        // All is well: the columns before say the rest.
        ("Allocated", _) => "Allocated".to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

/// "held/all", or a dash where the pool has no address of the family or nothing is known yet.
fn count(count: Option<&Count>) -> String {
    match count {
        Some(count) if count.capacity != "0" || count.assigned != "0" => {
            format!("{}/{}", count.assigned, count.capacity)
        }
        _ => dash(),
    }
}

/// The longest cell that is shown whole; others are cut. Texts of a user can be as long as an object may be.
const LONGEST: usize = 250;

/// A cell as it is shown: in one line, without characters that a terminal would act on, and not endless.
fn shown(cell: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    if cell.chars().nth(LONGEST).is_none() {
        return cell.chars().map(plain).collect();
    }
    cell.chars().take(LONGEST - 1).map(plain).chain(['…']).collect()
}

/// Left-aligned columns as wide as their widest cell; no spaces at the end of a line.
fn columns(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows = rows.map(|row| row.iter().map(|cell| shown(cell)).collect());
    let lines: Vec<Vec<String>> =
        std::iter::once(header.iter().map(ToString::to_string).collect()).chain(rows).collect();
    let mut widths = vec![0; header.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Owner, PoolView, State};

    fn count_of(assigned: &str, capacity: &str) -> Count {
        Count { assigned: assigned.into(), capacity: capacity.into() }
    }

    fn report() -> Report {
        let address = |address: &str, owners: &[(&str, &str, u64)]| AddressView {
            address: address.into(),
            owners: owners
                .iter()
                .map(|(node, interface, epoch)| Owner {
                    node: (*node).into(),
                    interface: (*interface).into(),
                    epoch: *epoch,
                })
                .collect(),
        };
        let service = |name: &str, addresses, state, reason: &str, message: &str| ServiceView {
            namespace: "default".into(),
            name: name.into(),
            addresses,
            state,
            reason: reason.into(),
            message: message.into(),
        };
        Report {
            pools: vec![
                PoolView {
                    name: "lan".into(),
                    ranges: vec!["192.0.2.100-192.0.2.199".into(), "2001:db8:50::/120".into()],
                    ipv4: Some(count_of("1", "100")),
                    ipv6: Some(count_of("1", "256")),
                },
                PoolView {
                    name: "v6".into(),
                    ranges: vec!["2001:db8:51::/64".into()],
                    ipv4: Some(count_of("0", "0")),
                    ipv6: None,
                },
            ],
            services: vec![
                service(
                    "dual",
                    vec![
                        address("192.0.2.100", &[("n1", "eth0", 2)]),
                        address("2001:db8:50::1", &[("n2", "eth0", 1), ("n3", "eth0", 1)]),
                    ],
                    State::Announced,
                    "Allocated",
                    "",
                ),
                service("full", Vec::new(), State::Pending, "PoolExhausted", "pool lan is full"),
                service("other", vec![address("198.51.100.1", &[])], State::OtherClass, "", ""),
            ],
        }
    }

    #[test]
    fn a_users_text_stays_in_its_cell() {
        let rows =
            [vec!["a\nb\u{1b}[31m".to_owned(), "x".repeat(200_000)], vec![String::new(), "ä".repeat(250)]];
        let text = columns(&["ONE", "TWO"], rows.into_iter());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].starts_with("a b [31m  xxx") && lines[1].ends_with("x…"), "{text}");
        assert!(lines[2].ends_with('ä') && lines.iter().all(|line| line.chars().count() <= 8 + 2 + LONGEST));
    }

    #[test]
    fn the_table_has_a_row_per_pool_and_per_address() {
        let expected = "\
POOLS
NAME  RANGES                                     IPV4   IPV6
lan   192.0.2.100-192.0.2.199,2001:db8:50::/120  1/100  1/256
v6    2001:db8:51::/64                           -      -

SERVICES
NAMESPACE  NAME   ADDRESS         OWNER            STATE       REASON
default    dual   192.0.2.100     n1@eth0          Announced   Allocated
default    dual   2001:db8:50::1  n2@eth0,n3@eth0  Announced   Allocated
default    full   -               -                Pending     PoolExhausted: pool lan is full
default    other  198.51.100.1    -                OtherClass  -
";
        assert_eq!(table(&report()), expected);
    }

    #[test]
    fn an_empty_cluster_says_what_is_missing() {
        let empty = Report { pools: Vec::new(), services: Vec::new() };
        assert_eq!(
            table(&empty),
            "POOLS\nnone: no Service can get an address before there is an AddressPool\n\n\
             SERVICES\nnone of type LoadBalancer\n"
        );
    }

    #[test]
    fn json_carries_the_same_facts_by_name() {
        let text = json(&report()).unwrap();
        assert!(text.ends_with("}\n"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["pools"][0]["ipv6"]["capacity"], "256");
        assert_eq!(value["pools"][1].get("ipv6"), None);
        assert_eq!(value["services"][0]["addresses"][0]["owners"][0]["node"], "n1");
        assert_eq!(value["services"][0]["addresses"][0]["owners"][0]["epoch"], 2);
        assert_eq!(value["services"][1]["state"], "Pending");
        assert_eq!(value["services"][1]["addresses"], serde_json::json!([]));
    }

    #[test]
    fn state_reads_the_same_in_json_and_table() {
        for state in [State::Announced, State::Unannounced, State::Pending, State::OtherClass] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
