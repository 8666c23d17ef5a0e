//! What the programs are allowed to do, asked of the kernel and of a real API server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::Stdio;

use landfall_lab::product::{SOON, cluster, eventually_seen};

/// A field of the status file of a program's process on a node, as the kernel prints it.
fn process_field(node: &str, program: &str, field: &str) -> Option<String> {
    let host = cluster().host(node).unwrap();
    let pid = host.run(&["pgrep", "-o", "-f", &format!("^/{program}")]).ok()?;
    let status = host.run(&["cat", &format!("/proc/{}/status", pid.trim())]).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")))?;
    Some(line.trim().to_owned())
}

/// Applies an object server-side, as a speaker whose token is bound to `node`; `None`: bound to no node.
fn apply_as_speaker(node: Option<&str>, status: bool, object: &str) -> Result<(), String> {
    let mut kubectl = cluster().kubectl_command();
    kubectl.arg("--as=system:serviceaccount:landfall-system:landfall-speaker");
    kubectl.args(node.map(|node| format!("--as-user-extra=authentication.kubernetes.io/node-name={node}")));
    kubectl.args([
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=landfall-speaker",
        "--filename=-",
    ]);
    kubectl.args(status.then_some("--subresource=status"));
    let mut child =
        kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(object.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

#[test]
fn a_speaker_has_two_capabilities_and_a_controller_none() {
    cluster();
    // linux/capability.h: CAP_NET_ADMIN is bit 12, CAP_NET_RAW bit 13.
    let both = format!("{:016x}", (1_u64 << 12) | (1 << 13));
    for node in ["n1", "n2", "n3"] {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(process_field(node, "landfall-speaker", set), Some(both.clone()), "{node} {set}");
        }
        assert_eq!(process_field(node, "landfall-speaker", "NoNewPrivs").as_deref(), Some("1"), "{node}");
    }
    let controllers: Vec<&str> = ["n1", "n2", "n3"]
        .into_iter()
        .filter(|node| process_field(node, "landfall-controller", "Pid").is_some())
        .collect();
    assert_eq!(controllers.len(), 2, "two replicas on two nodes: {controllers:?}");
    for node in controllers {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(process_field(node, "landfall-controller", set), Some("0".repeat(16)), "{node} {set}");
        }
        let user = process_field(node, "landfall-controller", "Uid").unwrap_or_default();
        assert!(user.starts_with("65532"), "{node}: {user}");
    }
}

#[test]
fn no_container_is_privileged_or_can_write_to_its_root() {
    let pods = cluster().api_get("/api/v1/namespaces/landfall-system/pods").unwrap();
    let pods = pods.pointer("/items").unwrap().as_array().unwrap().clone();
    assert_eq!(pods.len(), 5, "two controllers, three speakers");
    for pod in pods {
        let name = pod.pointer("/metadata/name").unwrap();
        for host in ["hostPID", "hostIPC"] {
            assert!(pod.pointer(&format!("/spec/{host}")).is_none(), "{name}");
        }
        for container in pod.pointer("/spec/containers").unwrap().as_array().unwrap() {
            let context = container.get("securityContext").unwrap();
            assert_ne!(context.get("privileged").and_then(serde_json::Value::as_bool), Some(true), "{name}");
            assert_eq!(context.get("readOnlyRootFilesystem").unwrap(), true, "{name}");
            assert_eq!(context.get("allowPrivilegeEscalation").unwrap(), false, "{name}");
            assert_eq!(context.pointer("/capabilities/drop/0").unwrap(), "ALL", "{name}");
        }
        assert_eq!(
            pod.pointer("/spec/securityContext/seccompProfile/type").unwrap(),
            "RuntimeDefault",
            "{name}"
        );
    }
}

#[test]
fn a_speakers_token_speaks_for_its_own_node_only() {
    let claim = |token, node: &str| {
        let object = format!(
            r#"{{"apiVersion": "landfall.dev/v1beta1", "kind": "SpeakerStatus", "metadata": {{"name": "{node}"}},
                "status": {{"owned": ["192.0.2.199@eth0#9"]}}}}"#
        );
        apply_as_speaker(token, true, &object)
    };
    eventually_seen(SOON, "the speaker of n1 to have its status", || {
        cluster().api_get("/apis/landfall.dev/v1beta1/speakerstatuses/n1").map(|_| ())
    });
    claim(Some("n1"), "n1").unwrap();
    for (token, object) in [(Some("n1"), "n2"), (Some("n3"), "n1"), (None, "n1")] {
        let refused = claim(token, object).unwrap_err();
        assert!(
            refused.contains("landfall-speaker") && refused.contains("denied"),
            "{token:?} {object}: {refused}"
        );
    }
    let lease = |node: &str, name: &str| {
        let object = format!(
            r#"{{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {{"name": "{name}", "namespace": "landfall-system"}},
                "spec": {{"leaseDurationSeconds": 4}}}}"#
        );
        apply_as_speaker(Some(node), false, &object)
    };
    lease("n1", "landfall-speaker-n1").unwrap();
    for (node, name) in [("n1", "landfall-speaker-n2"), ("n1", "landfall-controller")] {
        let refused = lease(node, name).unwrap_err();
        assert!(refused.contains("denied"), "{node} {name}: {refused}");
    }
}

#[test]
fn what_is_not_listed_is_forbidden() {
    let accounts = ["landfall-speaker", "landfall-controller"];
    for account in accounts {
        for (verb, what) in [
            ("get", "secrets"),
            ("list", "secrets"),
            ("create", "pods"),
            ("delete", "services"),
            ("patch", "nodes"),
            ("delete", "addresspools.landfall.dev"),
            ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
        ] {
            let user = format!("--as=system:serviceaccount:landfall-system:{account}");
            // kubectl exits with 1 and prints "no" when it is not allowed.
            let answer = cluster().kubectl(&["auth", "can-i", verb, what, "--all-namespaces", &user]);
            assert!(answer.is_err(), "{account} may {verb} {what}: {answer:?}");
        }
    }
    let speaker = "--as=system:serviceaccount:landfall-system:landfall-speaker";
    for (verb, what) in
        [("patch", "services"), ("patch", "services/status"), ("patch", "addresspools.landfall.dev/status")]
    {
        let answer = cluster().kubectl(&["auth", "can-i", verb, what, "--all-namespaces", speaker]);
        assert!(answer.is_err(), "a speaker may {verb} {what}: {answer:?}");
    }
}
