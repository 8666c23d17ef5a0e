//! The objects: thousands of Services whose endpoints exist nowhere, and three that are looked at.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use landfall_lab::{KubeProxy, Lab, Options, Toolchain, cache_folder, checkout};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::traffic::{BULK, GREETING};
use crate::client::with_api;
use crate::in_lab_like;

/// Requests under way at once.
const PARALLEL: usize = 32;

/// Endpoints of the Service that is rolled, and of each of its slices as the API's own controller fills them.
pub(crate) const ROLLED: usize = 1_000;
const PER_SLICE: usize = 100;

/// The Service of the traffic: endpoints on this node and elsewhere.
pub(crate) const FRONT: SocketAddr = vip(1, GREETING);
/// The Service whose only endpoint moves to and fro.
pub(crate) const FLIP: SocketAddr = vip(2, 80);
/// The Service of a thousand endpoints.
pub(crate) const ROLL: SocketAddr = vip(3, 80);

const fn vip(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, last)), port)
}

/// The store of a cluster with that many Services: filled once and kept in the lab's cache, under a name that changes
/// with everything that fills it.
pub(crate) fn store(services: usize, endpoints: usize) -> anyhow::Result<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(include_str!("cluster.rs"));
    hash.update(format!("{services} {endpoints}"));
    hash.update(Toolchain::find(&checkout()?)?.kubernetes.as_os_str().as_encoded_bytes());
    for kind in ["addresspools", "addressreservations", "l2advertisements", "speakerstatuses"] {
        hash.update(std::fs::read(checkout()?.join(format!("charts/landfall/crds/{kind}.yaml")))?);
    }
    let key: String = format!("{:x}", hash.finalize()).chars().take(16).collect();
    let folder = cache_folder()?.join(format!("store-{key}"));
    if !folder.is_dir() {
        in_lab_like(
            |options| Options { nodes: 0, kube_proxy: KubeProxy::None, ..options },
            |lab| {
                Cluster::of(lab, services, endpoints).fill()?;
                Ok(lab.save_store(&folder)?)
            },
        )?;
    }
    Ok(folder)
}

/// A cluster that is full.
pub(crate) struct Cluster<'a> {
    pub(crate) lab: &'a Lab,
    services: usize,
    endpoints: usize,
    /// Makes every change of an endpoint one to an address that was not there before.
    turn: AtomicU64,
}

impl<'a> Cluster<'a> {
    /// The cluster of a lab whose store is full.
    pub(crate) fn of(lab: &'a Lab, services: usize, endpoints: usize) -> Self {
        Self { lab, services, endpoints, turn: AtomicU64::new(1) }
    }

    /// Creates all objects.
    fn fill(&self) -> anyhow::Result<()> {
        let crds = checkout()?.join("charts/landfall/crds");
        self.lab.kubectl(&["apply", "--server-side", "--filename", crds.to_str().context("a path")?])?;
        self.lab.kubectl(&["create", "namespace", "landfall-system"])?;
        self.lab.stop_managers()?;
        self.lab.arena_nodes()?;
        let begin = Instant::now();
        with_api(self.lab, async |client| self.create(client).await)?;
        eprintln!("{} Services created in {:.1} s", self.services, begin.elapsed().as_secs_f32());
        Ok(())
    }

    async fn create(&self, client: kube::Client) -> anyhow::Result<()> {
        // The first and the last by name, so that whoever writes piece by piece is done when both are served.
        let named = [
            ("a-flip".to_owned(), FLIP, vec![endpoints("a-flip-0", GREETING, &[pod(1)])]),
            ("a-roll".to_owned(), ROLL, (0..ROLLED / PER_SLICE).map(|k| rolled(k, GREETING)).collect()),
            ("z-front".to_owned(), FRONT, self.front_slices()),
        ];
        let many = (0..self.services.saturating_sub(named.len())).map(|n| {
            let name = format!("bench-{n}");
            let vip = SocketAddr::new(
                Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 1, 0)) + small(n)).into(),
                80,
            );
            let slices = vec![self.nowhere(n, 0)];
            (name, vip, slices)
        });
        stream::iter(named.into_iter().chain(many))
            .map(|(name, vip, slices)| {
                let client = client.clone();
                async move {
                    let api: Api<Service> = Api::namespaced(client.clone(), "default");
                    let object = json!({
                        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                        "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                                 "ipFamilies": ["IPv4"], "ports": [{"port": vip.port()}]},
                    });
                    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
                    let status =
                        json!({"status": {"loadBalancer": {"ingress": [{"ip": vip.ip().to_string()}]}}});
                    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
                    let api: Api<EndpointSlice> = Api::namespaced(client, "default");
                    for slice in slices {
                        api.create(&PostParams::default(), &serde_json::from_value(slice.object(&name))?)
                            .await?;
                    }
                    anyhow::Ok(())
                }
            })
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    fn front_slices(&self) -> Vec<Slice> {
        let addresses: Vec<Ipv4Addr> = (1..=3).map(pod).chain((3..self.endpoints).map(elsewhere)).collect();
        vec![endpoints("z-front-0", GREETING, &addresses)]
    }

    fn nowhere(&self, service: usize, turn: u64) -> Slice {
        let turn = usize::try_from(turn).unwrap_or_default();
        let addresses: Vec<Ipv4Addr> = (0..self.endpoints)
            .map(|index| {
                let pod = small(service * self.endpoints + index + turn * 7_919) % (1 << 20);
                Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 16, 0, 0)) + pod)
            })
            .collect();
        endpoints(&format!("bench-{service}-0"), 8080, &addresses)
    }

    /// Sends one slice, and waits for the answer.
    fn write(&self, service: &str, slice: &Slice) -> anyhow::Result<()> {
        let name = &slice.name;
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{name}?fieldManager=bench&force=true"
        );
        let answer =
            self.lab.api("PATCH", &path, Some(("application/apply-patch+yaml", &slice.object(service))))?;
        anyhow::ensure!(matches!(answer.status, 200 | 201), "{}", answer.text());
        Ok(())
    }

    /// Moves the endpoint of [`FLIP`] to pod 1, 2 or 3.
    pub(crate) fn point_flip(&self, number: u8) -> anyhow::Result<()> {
        self.write("a-flip", &endpoints("a-flip-0", GREETING, &[pod(number)]))
    }

    /// Replaces all endpoints of [`ROLL`], a slice after the other, by ones that answer at another port.
    pub(crate) fn roll(&self) -> anyhow::Result<()> {
        (0..ROLLED / PER_SLICE).try_for_each(|k| self.write("a-roll", &rolled(k, BULK)))
    }

    /// Replaces all endpoints of that many Services as fast as the API server takes it.
    pub(crate) async fn churn(&self, client: &kube::Client, services: usize) -> anyhow::Result<()> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let first = usize::try_from(turn)? * services;
        let many = self.services - 3;
        stream::iter(0..services)
            .map(|n| {
                let api: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
                let slice = self.nowhere((first + n) % many, turn);
                async move {
                    let patch = json!({"endpoints": slice.endpoints()});
                    api.patch(&slice.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
                    anyhow::Ok(())
                }
            })
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    /// One Service in a hundred, at least one.
    pub(crate) fn one_percent(&self) -> usize {
        (self.services / 100).max(1)
    }
}

fn pod(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, 10 + number)
}

/// An address of the host that stands for other nodes.
fn elsewhere(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 16, 0)) + small(number))
}

fn rolled(slice: usize, port: u16) -> Slice {
    let first = slice * PER_SLICE + if port == BULK { ROLLED } else { 100 };
    let addresses: Vec<Ipv4Addr> = (first..first + PER_SLICE).map(elsewhere).collect();
    endpoints(&format!("a-roll-{slice}"), port, &addresses)
}

fn endpoints(name: &str, port: u16, addresses: &[Ipv4Addr]) -> Slice {
    Slice { name: name.to_owned(), port, addresses: addresses.to_vec() }
}

/// One `EndpointSlice`.
struct Slice {
    name: String,
    port: u16,
    addresses: Vec<Ipv4Addr>,
}

impl Slice {
    fn endpoints(&self) -> Vec<Value> {
        let endpoint = |address: &Ipv4Addr| {
            let node = if address.octets().starts_with(&[10, 244, 1]) { "n1" } else { "n2" };
            json!({"addresses": [address.to_string()], "conditions": {"ready": true}, "nodeName": node})
        };
        self.addresses.iter().map(endpoint).collect()
    }

    fn object(&self, service: &str) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "", "port": self.port, "protocol": "TCP"}],
            "endpoints": self.endpoints(),
        })
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(0)
}
