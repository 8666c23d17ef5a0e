use hyper::StatusCode;
use landfall_core::name::ServiceKey;
use landfall_runtime::serve::Answer;
use serde_json::{Value, json};

use super::*;

const NODE: [&str; 2] = ["192.0.2.11", "2001:db8:50::11"];

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn check(port: u16, local_v4: Option<usize>, local_v6: Option<usize>) -> Check {
    Check { uid: "u1".into(), port: NonZeroU16::new(port).unwrap(), local_v4, local_v6 }
}

fn state(checks: &[(&str, Check)]) -> State {
    let checks = checks.iter().map(|(name, check)| (key(name), check.clone())).collect();
    State { checks, addresses: NODE.map(addr).to_vec(), ..State::default() }
}

fn body(answer: Answer) -> String {
    use http_body_util::BodyExt;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bytes = runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn read(answer: Answer) -> Value {
    serde_json::from_str(&body(answer)).unwrap()
}

#[test]
fn a_service_is_answered_as_kube_proxy_answers() {
    // S112, S113
    let state = state(&[("web", check(30_400, Some(2), Some(0)))]);
    for (at, status, count) in [(NODE[0], StatusCode::OK, 2), (NODE[1], StatusCode::SERVICE_UNAVAILABLE, 0)] {
        let answer = service(&state, &key("web"), addr(at), Instant::now());
        assert_eq!(answer.status(), status, "{at}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("x-load-balancing-endpoint-weight"), count.to_string());
        assert_eq!(
            body(answer),
            format!(
                "{{\n\t\"service\": {{\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t}},\n\
                 \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": true\n}}"
            )
        );
    }
}

#[test]
fn a_change_that_waits_too_long_makes_everything_unhealthy() {
    // S116
    let start = Instant::now();
    let state = State { pending: Some(start), ..state(&[("web", check(30_400, Some(1), Some(1)))]) };
    for (after, healthy) in [(LATE / 2, true), (LATE, false)] {
        let now = start + after;
        let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        for at in NODE {
            let answer = service(&state, &key("web"), addr(at), now);
            assert_eq!(answer.status(), status, "{at}");
            assert_eq!(read(answer)["serviceProxyHealthy"], healthy, "{at}");
        }
        assert_eq!(node_health(&state, now, Timestamp::UNIX_EPOCH).status(), status);
        assert_eq!(node_life(&state, now, Timestamp::UNIX_EPOCH).status(), status);
    }
}

#[test]
fn a_node_that_is_to_go_takes_no_new_traffic_but_lives() {
    // S117, S121
    let (now, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
    let updated = Some("2026-01-02T03:04:05Z".parse().unwrap());
    let mut state = State { updated, ..state(&[("web", check(30_400, Some(1), Some(1)))]) };
    let family = json!({"lastUpdated": "2026-01-02T03:04:05Z", "healthy": true});
    let both = json!({"IPv4": family, "IPv6": family});
    let good = "1970-01-01T00:00:00Z";
    assert_eq!(node_health(&state, now, clock).status(), StatusCode::OK);
    assert_eq!(
        read(node_health(&state, now, clock)),
        json!({"lastUpdated": good, "currentTime": good, "healthy": true, "nodeEligible": true, "status": both})
    );
    state.eligible = false;
    assert_eq!(node_health(&state, now, clock).status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        read(node_health(&state, now, clock)),
        json!({"lastUpdated": "2026-01-02T03:04:05Z", "currentTime": good, "healthy": true,
               "nodeEligible": false, "status": both})
    );
    assert_eq!(node_life(&state, now, clock).status(), StatusCode::OK);
    assert_eq!(
        read(node_life(&state, now, clock)),
        json!({"lastUpdated": good, "currentTime": good, "healthy": true, "status": both})
    );
    for at in NODE {
        assert_eq!(service(&state, &key("web"), addr(at), now).status(), StatusCode::OK, "{at}");
    }
}

#[test]
fn sockets_are_those_of_the_families_and_only_their_change_wakes_anybody() {
    // S118, S119
    let mut state = state(&[("v4", check(30_400, Some(0), None)), ("v6", check(30_401, None, Some(0)))]);
    let sockets =
        |state: &State| -> Vec<String> { state.sockets().keys().map(ToString::to_string).collect() };
    assert_eq!(sockets(&state), ["192.0.2.11:30400", "[2001:db8:50::11]:30401"]);

    assert!(!state.set_check(&key("v4"), Some(check(30_400, Some(3), None))), "only a number");
    assert!(!state.set_check(&key("none"), None));
    assert!(state.set_check(&key("both"), Some(check(30_402, Some(0), Some(0)))), "new");
    assert_eq!(sockets(&state).len(), 4);
    assert!(state.set_check(&key("both"), Some(check(30_403, Some(0), Some(0)))), "another port");
    assert!(state.set_check(&key("both"), Some(check(30_403, Some(0), None))), "another family");
    assert!(state.set_check(&key("both"), None), "gone");
    assert_eq!(sockets(&state).len(), 2);
    state.addresses.clear();
    assert_eq!(sockets(&state).len(), 0, "NodePorts are served nowhere");
}
