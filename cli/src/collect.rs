//! Reads from the API server what the report is made of.

use std::fmt::Debug;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use landfall_crds::{AddressCount, AddressPool, SpeakerStatus};
use serde::de::DeserializeOwned;

use crate::args::{Connection, Status};
use crate::report::{ALLOCATED, Allocated, Count, Owners, PoolView, Report, ServiceInput};

/// Objects per request: a cluster's ten thousand Services do not have to fit into one answer.
const PAGE: u32 = 500;

/// The configuration that kubectl would use, or that of the pod it runs in when there is no kubeconfig.
pub(crate) async fn config(connection: &Connection) -> anyhow::Result<Config> {
    let options = KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
    let config = match &connection.kubeconfig {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?,
        None if options.context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer().await?,
    };
    Ok(config)
}

/// Lists pools, speakers and Services, and puts the report together.
pub(crate) async fn report(config: Config, status: &Status) -> anyhow::Result<Report> {
    let namespace = status.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config)?;
    let services: Api<Service> = if status.all_namespaces {
        Api::all(client.clone())
    } else {
        Api::namespaced(client.clone(), &namespace)
    };
    let pools: Api<AddressPool> = Api::all(client.clone());
    let speakers: Api<SpeakerStatus> = Api::all(client);
    let only_load_balancers = ListParams::default().fields("spec.type=LoadBalancer");
    let (pools, speakers, services) = tokio::try_join!(
        all(&pools, ListParams::default(), "addresspools"),
        all(&speakers, ListParams::default(), "speakerstatuses"),
        all(&services, only_load_balancers, "services"),
    )?;

    let mut owners = Owners::default();
    for speaker in &speakers {
        for entry in speaker.status.iter().flat_map(|status| &status.owned) {
            owners.add(&speaker.name_any(), entry);
        }
    }
    let pools = pools.into_iter().map(pool).collect();
    let services = services.into_iter().map(service).collect();
    Ok(Report::new(pools, services, &owners, &status.load_balancer_class))
}

/// All objects of a kind, page by page.
async fn all<K>(api: &Api<K>, params: ListParams, what: &str) -> anyhow::Result<Vec<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = params.limit(PAGE);
    let mut items = Vec::new();
    loop {
        let page = match api.list(&params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                anyhow::bail!("the cluster knows no {what}: is Landfall installed?")
            }
            result => result.with_context(|| format!("listing {what}"))?,
        };
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(items),
        }
    }
}

fn pool(pool: AddressPool) -> PoolView {
    let count = |count: AddressCount| Count { assigned: count.assigned, capacity: count.capacity };
    let name = pool.name_any();
    let (ipv4, ipv6) = pool.status.map_or((None, None), |status| (status.ipv4, status.ipv6));
    PoolView {
        name,
        ranges: pool.spec.addresses.iter().map(ToString::to_string).collect(),
        ipv4: ipv4.map(count),
        ipv6: ipv6.map(count),
    }
}

fn service(service: Service) -> ServiceInput {
    let status = service.status.unwrap_or_default();
    let allocated =
        status.conditions.unwrap_or_default().into_iter().find(|condition| condition.type_ == ALLOCATED).map(
            |condition| Allocated {
                holds: condition.status == "True",
                reason: condition.reason,
                message: condition.message,
            },
        );
    let ingress = status.load_balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
    ServiceInput {
        namespace: service.metadata.namespace.unwrap_or_default(),
        name: service.metadata.name.unwrap_or_default(),
        class: service.spec.and_then(|spec| spec.load_balancer_class),
        addresses: ingress.into_iter().filter_map(|ingress| ingress.ip).collect(),
        allocated,
    }
}

#[cfg(test)]
mod tests {
    use landfall_crds::{AddressPoolSpec, AddressPoolStatus};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_read_with_its_addresses_and_our_condition_only() {
        let input = service(
            serde_json::from_value(json!({
                "metadata": {"namespace": "default", "name": "web"},
                "spec": {"type": "LoadBalancer", "loadBalancerClass": "landfall.dev/landfall"},
                "status": {
                    "loadBalancer": {"ingress": [
                        {"ip": "192.0.2.100", "ipMode": "VIP"}, {"ip": "2001:db8:50::100"}, {"hostname": "x.example"}
                    ]},
                    "conditions": [
                        {"type": "example.com/Other", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                        {"type": "landfall.dev/Allocated", "status": "False", "reason": "NoPool", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                    ]
                }
            }))
            .unwrap(),
        );
        assert_eq!(
            input,
            ServiceInput {
                namespace: "default".into(),
                name: "web".into(),
                class: Some("landfall.dev/landfall".into()),
                addresses: vec!["192.0.2.100".into(), "2001:db8:50::100".into()],
                allocated: Some(Allocated { holds: false, reason: "NoPool".into(), message: "m".into() }),
            }
        );
    }

    #[test]
    fn a_speaker_status_is_read_as_the_api_server_stores_it_without_a_spec() {
        let speaker: SpeakerStatus = serde_json::from_value(json!({
            "apiVersion": "landfall.dev/v1beta1", "kind": "SpeakerStatus", "metadata": {"name": "n1"},
            "status": {"owned": ["192.0.2.100@eth0#1", "2001:db8:50::100@eth0#1"]}
        }))
        .unwrap();
        assert_eq!(speaker.status.unwrap().owned.len(), 2);
    }

    #[test]
    fn a_pool_without_status_has_no_counts_yet() {
        let spec = AddressPoolSpec {
            addresses: vec!["192.0.2.0/24".into(), "2001:db8:50::/64".into()],
            ..AddressPoolSpec::default()
        };
        let mut object = AddressPool::new("lan", spec);
        let view = pool(object.clone());
        assert_eq!(view.ranges, ["192.0.2.0/24", "2001:db8:50::/64"]);
        assert_eq!((view.ipv4, view.ipv6), (None, None));
        object.status = Some(AddressPoolStatus {
            ipv6: Some(AddressCount {
                capacity: "18446744073709551616".into(),
                assigned: "2".into(),
                available: "18446744073709551614".into(),
                ..AddressCount::default()
            }),
            ..AddressPoolStatus::default()
        });
        assert_eq!(
            pool(object).ipv6,
            Some(Count { assigned: "2".into(), capacity: "18446744073709551616".into() })
        );
    }
}
