//! Random Services and slices, all from one seed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use landfall_lab::arena::Place;
use landfall_lab::responder::PORTS;
use serde_json::{Value, json};

/// Numbers that are the same for a seed in each run (Vigna's `SplitMix64`).
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// One port of a Service.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) udp: bool,
    pub(crate) number: u16,
    pub(crate) on_nodes: u16,
}

/// One Service with its slices.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) local: bool,
    pub(crate) affinity: bool,
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) vips: Vec<IpAddr>,
    pub(crate) external: Vec<IpAddr>,
    pub(crate) ports: Vec<Port>,
    /// Fields of the spec that data planes for load-balancer addresses have no use for.
    useless: Value,
    pub(crate) slices: Vec<(String, Value)>,
}

/// How many Services a configuration has at most.
pub(crate) const SERVICES: usize = 4;

/// Source ranges that hold some of the sources of the probes, or none.
const RANGES: [&str; 12] = [
    "10.200.0.0/16",
    "10.200.0.0/17",
    "10.0.0.0/8",
    "10.244.1.0/24",
    "10.244.1.11/32",
    "192.0.2.11/32",
    "203.0.113.0/24",
    "0.0.0.0/0",
    "fd00:200::/32",
    "fd00:244:1::/64",
    "2001:db8:50::/64",
    "::/0",
];

/// The Services of a seed.
pub(crate) fn services(seed: u64) -> Vec<Given> {
    let mut random = Random(seed);
    let mut chosen: Vec<usize> = (0..SERVICES).collect();
    while chosen.len() > 2 && random.percent(40) {
        chosen.remove(random.below(chosen.len()));
    }
    chosen.into_iter().map(|number| service(&mut random, number)).collect()
}

fn service(random: &mut Random, number: usize) -> Given {
    let small = u16::try_from(number).expect("a small number");
    let mut ports = Vec::new();
    for index in 0..=u16::try_from(random.below(2)).expect("a small number") {
        let protocols: &[bool] = random.pick(&[&[false], &[true], &[false, true]]);
        for udp in protocols {
            ports.push(Port {
                name: format!("{}{index}", if *udp { "u" } else { "t" }),
                udp: *udp,
                number: 80 + 10 * small + index,
                on_nodes: 30_010 + 10 * small + index,
            });
        }
    }
    // Every third shares an address with others, at ports of its own.
    let last = if random.percent(33) { 110 } else { 100 + number };
    let parse = |text: String| text.parse::<IpAddr>().expect("an address");
    let mut vips = vec![parse(format!("192.0.2.{last}")), parse(format!("2001:db8:50::{last}"))];
    if random.percent(20) {
        vips.push(parse(format!("192.0.2.{}", 115 + number)));
    }
    if random.percent(10) {
        vips.remove(random.below(2));
    }
    let mut external = Vec::new();
    if random.percent(30) {
        external = vec![parse(format!("198.51.100.2{number}")), parse(format!("2001:db8:66::2{number}"))];
    }
    let mut ranges = Vec::new();
    if random.percent(40) {
        for _ in 0..=random.below(4) {
            ranges.push(random.pick(&RANGES).parse().expect("a range"));
        }
        // The API server takes a range twice, and so it happens.
        if random.percent(20) {
            ranges.push(ranges[0]);
        }
    }
    let name = format!("random-{number}");
    let local = random.percent(40);
    let affinity = random.percent(25);
    let useless = json!({
        "publishNotReadyAddresses": random.percent(20),
        "internalTrafficPolicy": if random.percent(20) { "Local" } else { "Cluster" },
    });
    let slices = slices(random, &name, &ports);
    Given { name, local, affinity, ranges, vips, external, ports, useless, slices }
}

fn slices(random: &mut Random, service: &str, ports: &[Port]) -> Vec<(String, Value)> {
    let mut slices = Vec::new();
    for (v6, kind) in [(false, "IPv4"), (true, "IPv6")] {
        // Whether all endpoints of the family have hints, so that they count.
        let hinted = random.percent(25);
        let ready_rarely = random.percent(35);
        let mut records = Records::new();
        for index in 0..random.pick(&[0, 1, 1, 1, 2, 2, 3]) {
            let name = format!("{service}-{}-{index}", kind.to_lowercase());
            let mut numbers = Vec::new();
            for port in ports {
                // A slice may lack a port, and a named one may lead to other numbers than in the next slice.
                if random.percent(90) {
                    numbers.push(json!({
                        "name": port.name, "protocol": if port.udp { "UDP" } else { "TCP" },
                        "port": random.pick(&PORTS),
                    }));
                }
            }
            let endpoints: Vec<Value> = (0..random.below(5))
                .map(|_| endpoint(random, v6, hinted, ready_rarely, &mut records))
                .collect();
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
                "addressType": kind, "ports": numbers, "endpoints": endpoints,
            });
            slices.push((name, slice));
        }
    }
    slices
}

/// What the slices of a Service say of an address, and of it while it terminates. They say the same wherever they name it:
/// of records that contradict each other kube-proxy takes any (`addEndpoints` in `endpointslicecache.go`: "the result is
/// undefined"), but one that terminates never before one that does not.
type Records = BTreeMap<(IpAddr, bool), Value>;

fn endpoint(random: &mut Random, v6: bool, hinted: bool, ready_rarely: bool, records: &mut Records) -> Value {
    let places = [
        (Place::Pod(1), "n1"),
        (Place::Pod(2), "n1"),
        (Place::Pod(3), "n1"),
        (Place::Remote, "n2"),
        (Place::Remote, "n2"),
        (Place::Remote, "n2"),
        (Place::Node, "n1"),
    ];
    let (place, node) = random.pick(&places);
    let addresses: Vec<IpAddr> = place.endpoints().into_iter().filter(|a| a.is_ipv6() == v6).collect();
    let mut conditions = serde_json::Map::new();
    let (ready, serving, terminating) = if ready_rarely { (15, 70, 60) } else { (85, 80, 15) };
    // Unset is true, true and false.
    for (name, percent) in [("ready", ready), ("serving", serving), ("terminating", terminating)] {
        let value = random.percent(percent);
        if value != (name != "terminating") || random.percent(50) {
            conditions.insert(name.into(), value.into());
        }
    }
    // As the API's own controller writes it, with few exceptions: who terminates is not ready.
    if conditions.get("terminating") == Some(&true.into()) && random.percent(80) {
        conditions.insert("ready".into(), false.into());
    }
    let (address, terminates) =
        (random.pick(&addresses), conditions.get("terminating") == Some(&true.into()));
    let mut endpoint = json!({"addresses": [address], "conditions": conditions});
    // To one without a node the way back from itself is not masqueraded, and it meets silence: with affinity for good, or
    // never, as the first choice falls.
    if place == Place::Pod(1) || random.percent(90) {
        endpoint["nodeName"] = node.into();
    }
    if hinted && random.percent(90) {
        let zones: &[&str] = random.pick(&[&["zone-1"], &["zone-2"], &["zone-1", "zone-2"]]);
        let zones: Vec<Value> = zones.iter().map(|zone| json!({"name": zone})).collect();
        endpoint["hints"] = json!({"forZones": zones});
        if random.percent(40) {
            endpoint["hints"]["forNodes"] = json!([{"name": random.pick(&["n1", "n2"])}]);
        }
    }
    records.entry((address, terminates)).or_insert(endpoint).clone()
}

impl Given {
    /// The Service as the API server takes it.
    pub(crate) fn object(&self) -> Value {
        let ports: Vec<Value> = (self.ports.iter())
            .map(|port| {
                json!({"name": port.name, "protocol": if port.udp { "UDP" } else { "TCP" },
                       "port": port.number, "nodePort": port.on_nodes, "targetPort": port.number})
            })
            .collect();
        let mut spec = json!({
            "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "ports": ports, "sessionAffinity": if self.affinity { "ClientIP" } else { "None" },
            "externalTrafficPolicy": if self.local { "Local" } else { "Cluster" },
            "internalTrafficPolicy": self.useless["internalTrafficPolicy"],
            "publishNotReadyAddresses": self.useless["publishNotReadyAddresses"],
        });
        let texts = |of: &[IpAddr]| -> Vec<String> { of.iter().map(ToString::to_string).collect() };
        if self.affinity {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10_800}});
        }
        if !self.ranges.is_empty() {
            spec["loadBalancerSourceRanges"] =
                self.ranges.iter().map(ToString::to_string).collect::<Vec<_>>().into();
        }
        if !self.external.is_empty() {
            spec["externalIPs"] = texts(&self.external).into();
        }
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name}, "spec": spec})
    }

    /// Its status.
    pub(crate) fn status(&self) -> Value {
        let ingress: Vec<Value> = self.vips.iter().map(|vip| json!({"ip": vip.to_string()})).collect();
        json!({"status": {"loadBalancer": {"ingress": ingress}}})
    }
}
