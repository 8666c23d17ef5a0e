//! One API server, two data planes, and the comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use landfall_lab::arena::Arena;
use landfall_lab::contender::Contender;
use landfall_lab::objects::success;
use landfall_lab::responder::PORTS;
use landfall_lab::{KubeProxy, Lab, Options, checkout};
use serde_json::{Value, json};

use crate::config::{Given, SERVICES, services};
use crate::probe::{Door, Outcome, Probe, Source, Verdict, ask};

/// How long the two may take to agree: kube-proxy writes once a second at most.
const WITHIN: Duration = Duration::from_secs(30);
/// Flows of a question at first, and when the answers differ. With six endpoints 16 flows miss one in a third of the
/// cases, 80 in one of 400,000.
const FLOWS: u32 = 16;
const MORE: u32 = 64;

const NODE: [&str; 2] = ["192.0.2.11", "2001:db8:50::11"];

pub(crate) struct Duel {
    lab: &'static Lab,
    ours: Arena<'static>,
    theirs: Arena<'static>,
    slices: Mutex<BTreeSet<String>>,
}

/// A question on which the two differ.
struct Difference {
    probe: Probe,
    ours: Outcome,
    wanted: Outcome,
}

impl Duel {
    /// Brings everything up.
    pub(crate) fn begin() -> Self {
        let options = || Options {
            nodes: 0,
            kube_proxy: KubeProxy::None,
            ..Options::named(Lab::test_name("").unwrap())
        };
        let lab = Lab::shared(options).unwrap();
        let crds = checkout().unwrap().join("charts/landfall/crds");
        lab.kubectl(&["apply", "--server-side", "--filename", crds.to_str().unwrap()]).unwrap();
        lab.kubectl(&["create", "namespace", "landfall-system"]).unwrap();
        lab.arena_nodes().unwrap();
        let [ours, theirs] = ['a', 'b'].map(|letter| Arena::new(lab, letter).unwrap());
        for arena in [&ours, &theirs] {
            arena.serve().unwrap();
        }
        ours.start(Contender::Landfall, &[]).unwrap();
        theirs.start(Contender::Nftables, &[]).unwrap();
        Self { lab, ours, theirs, slices: Mutex::default() }
    }

    /// Applies the configuration of a seed over the one before and compares; returns what they agreed on.
    pub(crate) fn round(&self, seed: u64) -> Vec<Outcome> {
        let given = services(seed);
        self.apply(&given, seed);
        let probes = probes(&given);
        let begin = Instant::now();
        let compared = self.compare(&given, &probes);
        eprintln!("seed {seed}: {} questions, {:.1} s", probes.len(), begin.elapsed().as_secs_f32());
        match compared {
            Ok(agreed) => agreed,
            Err(differences) => {
                let alone = self.alone(&given, seed, &probes);
                panic!("{}", report(seed, &given, &differences, alone));
            }
        }
    }

    /// Whether the two differ as well when nothing went before.
    fn alone(&self, given: &[Given], seed: u64, probes: &[Probe]) -> bool {
        self.apply(&[], seed + 1_000_000);
        self.apply(given, seed + 2_000_000);
        self.compare(given, probes).is_err()
    }

    fn put(&self, path: &str, object: &Value) {
        let path = format!("{path}?fieldManager=test&force=true");
        let body = ("application/apply-patch+yaml", object);
        success(&self.lab.api("PATCH", &path, Some(body)).unwrap()).unwrap();
    }

    fn delete(&self, path: &str) {
        let answer = self.lab.api("DELETE", path, None).unwrap();
        assert!(matches!(answer.status, 200 | 404), "{}", answer.text());
    }

    fn apply(&self, given: &[Given], turn: u64) {
        let services = "/api/v1/namespaces/default/services";
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        let mut there = self.slices.lock().unwrap();
        let wanted: BTreeMap<&String, &Value> =
            given.iter().flat_map(|service| &service.slices).map(|(name, slice)| (name, slice)).collect();
        for name in there.iter().filter(|name| !wanted.contains_key(name)) {
            self.delete(&format!("{slices}/{name}"));
        }
        for number in 0..SERVICES {
            let name = format!("random-{number}");
            if !given.iter().any(|service| service.name == name) {
                self.delete(&format!("{services}/{name}"));
            }
        }
        for (name, slice) in &wanted {
            self.put(&format!("{slices}/{name}"), slice);
        }
        *there = wanted.keys().map(|name| (*name).clone()).collect();
        for service in given {
            let path = format!("{services}/{}", service.name);
            self.put(&path, &service.object());
            let body = service.status();
            let answer = self.lab.api(
                "PATCH",
                &format!("{path}/status"),
                Some(("application/merge-patch+json", &body)),
            );
            success(&answer.unwrap()).unwrap();
        }
        self.fence(turn, services, slices);
    }

    /// Waits until both have a Service and a slice that were written last: watches deliver in order.
    fn fence(&self, turn: u64, services: &str, slices: &str) {
        let door = 1_000 + u16::try_from(turn % 60_000).unwrap();
        let behind = PORTS[usize::try_from(turn % 3).unwrap()];
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "fence", "labels": {"kubernetes.io/service-name": "fence"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": behind, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.244.2.11"], "conditions": {"ready": true}, "nodeName": "n2"}],
        });
        self.put(&format!("{slices}/fence"), &slice);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "fence"},
            "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": door}]},
        });
        self.put(&format!("{services}/fence"), &service);
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.126"}]}}});
        let path = format!("{services}/fence/status");
        success(&self.lab.api("PATCH", &path, Some(("application/merge-patch+json", &status))).unwrap())
            .unwrap();
        let probe = Probe {
            service: 0,
            door: Door::Vip,
            from: Source::Clients,
            to: SocketAddr::new("192.0.2.126".parse().unwrap(), door),
            udp: false,
            affinity: false,
        };
        let begin = Instant::now();
        for (name, arena) in [("Landfall", &self.ours), ("kube-proxy", &self.theirs)] {
            loop {
                let mut known = BTreeMap::new();
                ask(arena, &[(0, &probe)], 1, &mut known);
                let by =
                    |verdict: &Verdict| matches!(verdict, Verdict::Answered(by, _) if by.port() == behind);
                if known[&0].iter().any(by) {
                    break;
                }
                assert!(begin.elapsed() < WITHIN, "{name} has not got the last change: {known:?}");
            }
        }
    }

    /// Puts all questions to both until they agree.
    fn compare(&self, given: &[Given], probes: &[Probe]) -> Result<Vec<Outcome>, Vec<Difference>> {
        let begin = Instant::now();
        let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        let mut open: Vec<(usize, &Probe)> = probes.iter().enumerate().collect();
        let mut flows = FLOWS;
        loop {
            std::thread::scope(|scope| {
                scope.spawn(|| ask(&self.theirs, &open, flows, &mut theirs));
                ask(&self.ours, &open, flows, &mut ours);
            });
            let none = Outcome::new();
            let differences: Vec<(usize, Difference)> = (open.iter())
                .filter_map(|(number, probe)| {
                    let wanted = wanted(given, probe, theirs.get(number).unwrap_or(&none));
                    let found = ours.get(number).unwrap_or(&none);
                    let same = if probe.affinity && !probe.from.many() {
                        coarse(found) == coarse(&wanted)
                    } else {
                        *found == wanted
                    };
                    let clean = |outcome: &Outcome| {
                        !outcome.iter().any(|v| matches!(v, Verdict::Moved | Verdict::Odd(_)))
                    };
                    if same && clean(found) {
                        return None;
                    }
                    Some((*number, Difference { probe: (*probe).clone(), ours: found.clone(), wanted }))
                })
                .collect();
            if differences.is_empty() {
                return Ok(ours.into_values().collect());
            }
            if begin.elapsed() > WITHIN {
                return Err(differences.into_iter().map(|(_, difference)| difference).collect());
            }
            open = differences.iter().map(|(number, _)| (*number, &probes[*number])).collect();
            // A flow lost on a busy machine, or a change that had not arrived, must not stay in the comparison; while
            // only endpoints are missing on one side, the sets go on growing.
            for (number, difference) in &differences {
                let answered = |of: &Outcome| of.iter().all(|v| matches!(v, Verdict::Answered(..)));
                let keep = flows == MORE && answered(&difference.ours) && answered(&difference.wanted);
                if !keep || begin.elapsed() > WITHIN / 2 && flows == MORE {
                    ours.remove(number);
                    theirs.remove(number);
                }
            }
            flows = MORE;
        }
    }
}

fn coarse(outcome: &Outcome) -> BTreeSet<u8> {
    let kind = |verdict: &Verdict| match verdict {
        Verdict::Answered(..) => 0,
        Verdict::Moved => 1,
        Verdict::Refused => 2,
        Verdict::Silence => 3,
        Verdict::Odd(_) => 4,
    };
    outcome.iter().map(kind).collect()
}

/// What Landfall has to answer where kube-proxy answers this: the same but for the deliberate differences.
fn wanted(given: &[Given], probe: &Probe, theirs: &Outcome) -> Outcome {
    // S77: ports that no Service has are refused.
    if probe.door == Door::Undefined {
        return Outcome::from([Verdict::Refused]);
    }
    let service = &given[probe.service];
    let v6 = probe.to.is_ipv6();
    let of_family = service.ranges.iter().any(|range| range.addr().is_ipv6() == v6);
    if service.ranges.is_empty() || probe.door == Door::Vip && of_family {
        return theirs.clone();
    }
    // S57, S65: ranges hold at every door, and a family without one is closed.
    let admits = |source: IpAddr| service.ranges.iter().any(|range| range.contains(&source));
    let sources: BTreeSet<bool> = [0, 40_000].map(|n| admits(probe.from.address(v6, n))).into();
    let mut wanted = Outcome::new();
    if sources.contains(&true) {
        wanted.extend(theirs.iter().cloned());
    }
    if sources.contains(&false) {
        // A datagram dropped on the host that sends it fails as a refused one does.
        let local = probe.from == Source::Node && probe.udp;
        wanted.insert(if local { Verdict::Refused } else { Verdict::Silence });
    }
    wanted
}

fn probes(given: &[Given]) -> Vec<Probe> {
    let mut probes = Vec::new();
    for (number, service) in given.iter().enumerate() {
        for port in &service.ports {
            let doors = (service.vips.iter().map(|vip| (Door::Vip, *vip, port.number)))
                .chain(service.external.iter().map(|ip| (Door::External, *ip, port.number)))
                .chain(NODE.iter().map(|ip| (Door::NodePort, ip.parse().unwrap(), port.on_nodes)));
            for (door, ip, at) in doors {
                for from in Source::ALL {
                    probes.push(Probe {
                        service: number,
                        door,
                        from,
                        to: SocketAddr::new(ip, at),
                        udp: port.udp,
                        affinity: service.affinity,
                    });
                }
            }
        }
        for udp in [false, true] {
            probes.extend(service.vips.iter().map(|vip| Probe {
                service: number,
                door: Door::Undefined,
                from: Source::Clients,
                to: SocketAddr::new(*vip, 9),
                udp,
                affinity: false,
            }));
        }
    }
    probes
}

fn report(seed: u64, given: &[Given], differences: &[Difference], alone: bool) -> String {
    let mut lines = vec![format!("seed {seed}: {} questions are answered differently", differences.len())];
    lines.push(if alone {
        format!("also alone: LANDFALL_SEED={seed} LANDFALL_CONFIGURATIONS=1 shows it")
    } else {
        format!("not when nothing went before: seed {} came first", seed.saturating_sub(1))
    });
    for Difference { probe, ours, wanted } in differences.iter().take(12) {
        lines.push(format!("{probe:?}\n    Landfall: {ours:?}\n    wanted:   {wanted:?}"));
    }
    for service in given {
        lines.push(format!("{}\n{}", service.object(), service.status()));
        lines.extend(service.slices.iter().map(|(_, slice)| slice.to_string()));
    }
    lines.join("\n")
}
