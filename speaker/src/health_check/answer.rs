//! What is answered, to the byte as kube-proxy does it.

use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use k8s_openapi::jiff::Timestamp;
use landfall_core::name::ServiceKey;
use landfall_runtime::serve::Answer;
use serde_json::json;
use tokio::time::Instant;

use super::State;

/// How many endpoints a load balancer should reckon with here.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// What a time is in Go before it was ever set.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The answer for a Service, asked at an address of this node, whatever the path: 200 while the node has an endpoint
/// for it and the kernel keeps up, else 503 (`pkg/proxy/healthcheck/service_health.go`).
#[must_use]
pub fn service(state: &State, key: &ServiceKey, at: IpAddr, now: Instant) -> Answer {
    let local = state.checks.get(key).and_then(|check| check.local(at)).unwrap_or(0);
    let healthy = state.healthy(now);
    // Names of objects need no escaping: they are DNS labels.
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
        key.namespace, key.name
    );
    let mut answer = answer(local > 0 && healthy, body);
    answer.headers_mut().insert(WEIGHT, HeaderValue::from(local));
    answer
}

/// The answer to `/healthz`: 200 while the kernel keeps up and the node is to stay (KEP-3836,
/// `pkg/proxy/healthcheck/proxy_health.go`).
#[must_use]
pub fn node_health(state: &State, now: Instant, clock: Timestamp) -> Answer {
    proxy(state, state.eligible, Some(state.eligible), now, clock)
}

/// The answer to `/livez`: as [`node_health`], but what becomes of the node does not matter.
#[must_use]
pub fn node_life(state: &State, now: Instant, clock: Timestamp) -> Answer {
    proxy(state, true, None, now, clock)
}

fn proxy(state: &State, wanted: bool, eligible: Option<bool>, now: Instant, clock: Timestamp) -> Answer {
    let healthy = state.healthy(now);
    let updated = state.updated.map_or_else(|| NEVER.to_owned(), |at| at.to_string());
    // While all is well the time is that of the answer: kube-proxy's callers have always been told a recent one.
    let shown = if healthy && wanted { clock.to_string() } else { updated.clone() };
    let mut body = json!({"lastUpdated": shown, "currentTime": clock.to_string(), "healthy": healthy});
    if let (Some(eligible), Some(fields)) = (eligible, body.as_object_mut()) {
        fields.insert("nodeEligible".to_owned(), eligible.into());
    }
    if let (Some(_), Some(fields)) = (state.updated, body.as_object_mut()) {
        // One table carries both families.
        let family = json!({"lastUpdated": updated, "healthy": healthy});
        fields.insert("status".to_owned(), json!({"IPv4": family, "IPv6": family}));
    }
    answer(healthy && wanted, body.to_string())
}

fn answer(good: bool, body: String) -> Answer {
    let mut answer = Answer::new(body.into());
    *answer.status_mut() = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    answer
}
