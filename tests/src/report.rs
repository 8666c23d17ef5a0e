//! What a person would look at first when a test failed.

use std::path::Path;
use std::process::Command;

use crate::command;
use crate::error::Result;
use crate::lab::Lab;
use crate::plan::HostName;

/// Lines shown of each answer at most; its end is the interesting part.
const LINES: usize = 150;

impl Lab {
    /// The objects and events of a namespace, Landfall's own objects and logs, each node's packet rules and the
    /// neighbour tables, as text.
    #[must_use]
    pub fn report(&self, namespace: &str) -> String {
        let mut text = String::new();
        let mut section = |title: &str, answer: Result<String>| {
            let answer = answer.unwrap_or_else(|error| format!("({error})"));
            let shown = crate::error::last_lines(&answer, LINES);
            text.extend(["\n--- ", title, "\n", &shown, "\n"]);
        };
        let kubectl = |words: &str| self.bounded_kubectl(words.split(' '));
        let services = ["-n", namespace, "get", "services", "-o", SERVICES];
        section("the lab", Ok(self.status()));
        section("objects", kubectl(&format!("-n {namespace} get all,endpointslices -o wide")));
        section("Services", self.bounded_kubectl(services.into_iter()));
        section("events", kubectl(&format!("-n {namespace} get events --sort-by=.lastTimestamp")));
        section("pods, described", kubectl(&format!("-n {namespace} describe pods")));
        for kind in ["addresspools", "addressreservations", "l2advertisements", "speakerstatuses"] {
            section(kind, kubectl(&format!("get {kind}.landfall.dev -o yaml")));
        }
        section("Landfall's pods", kubectl("-n landfall-system get pods,leases -o wide"));
        section("Landfall's events", kubectl("-n landfall-system get events --sort-by=.lastTimestamp"));
        for component in ["controller", "speaker"] {
            let words =
                "-n landfall-system logs --prefix --tail=60 --selector=app.kubernetes.io/name=landfall";
            let logs = kubectl(&format!("{words},app.kubernetes.io/component={component}"));
            section(&format!("{component} logs"), logs);
        }
        for node in self.nodes() {
            let name = HostName::Node(node.number).to_string();
            section(
                &format!("{name}: table inet landfall"),
                self.on(&name, &["nft", "list", "table", "inet", "landfall"]),
            );
            section(&format!("{name}: neighbours"), self.on(&name, &["ip", "neigh", "show", "dev", "eth0"]));
        }
        for client in [HostName::Client, HostName::Client2] {
            let name = client.to_string();
            section(&format!("{name}: neighbours"), self.on(&name, &["ip", "neigh", "show", "dev", "eth0"]));
        }
        text
    }

    /// Prints the report on standard error and keeps the logs in the checkout's `target/lab-logs`.
    pub fn print_report(&self, checkout: &Path, namespace: &str) {
        eprintln!("{}", self.report(namespace));
        match self.save_logs(checkout) {
            Ok(folder) => eprintln!("--- all logs are in {}", folder.display()),
            Err(error) => eprintln!("--- the logs could not be saved: {error}"),
        }
    }

    fn bounded_kubectl<'w>(&self, words: impl Iterator<Item = &'w str>) -> Result<String> {
        let mut kubectl: Command = self.kubectl_command();
        command::run(kubectl.arg("--request-timeout=5s").args(words))
    }

    fn on(&self, host: &str, words: &[&str]) -> Result<String> {
        self.host(host)?.run(words)
    }
}

/// Name, type, addresses and conditions of each Service.
const SERVICES: &str = concat!(
    r"jsonpath={range .items[*]}{.metadata.name}{'\t'}{.spec.type}{'\t'}{.status.loadBalancer}{'\n'}",
    r"{range .status.conditions[*]}{'\t'}{.type}={.status}{'\t'}{.reason}: {.message}{'\n'}{end}{end}"
);
