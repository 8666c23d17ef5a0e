//! A controller that runs as a process of the test instead of in a pod, so that the test decides when it ends.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use landfall_lab::objects::{SYSTEM, wait_leader};
use landfall_lab::product::{POD, cluster, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

/// The deployment scaled to nothing; back to two when the value goes.
pub(crate) struct NoPods;

impl NoPods {
    pub(crate) fn now() -> Self {
        let this = Self;
        scale(0);
        // A pod that is about to go writes on until it has gone.
        let pods = format!(
            "/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dcontroller"
        );
        eventually(POD, "no controller", || {
            let list = cluster().api_get(&pods).ok()?;
            list["items"].as_array().is_some_and(Vec::is_empty).then_some(())
        });
        this
    }
}

impl Drop for NoPods {
    fn drop(&mut self) {
        scale(2);
        if !std::thread::panicking() {
            wait_leader(cluster());
        }
    }
}

fn scale(replicas: u8) {
    let count = format!("--replicas={replicas}");
    cluster().kubectl(&["-n", SYSTEM, "scale", "deployment/landfall-controller", &count]).expect("scaled");
}

/// How such controllers are started: with the rights of the controller's own service account.
pub(crate) struct Outside {
    folder: TempDir,
    kubeconfig: PathBuf,
    log: PathBuf,
}

impl Outside {
    /// `server` is the API server's URL, or `None` for the real one.
    pub(crate) fn new(server: Option<&str>) -> Self {
        let lab = cluster();
        let folder = tempfile::tempdir().expect("a folder");
        let text = std::fs::read_to_string(lab.kubeconfig()).expect("the kubeconfig");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let token = lab.kubectl(&["-n", SYSTEM, "create", "token", "landfall-controller", "--duration=2h"]);
        config["users"][0]["user"] = json!({"token": token.expect("a token").trim()});
        if let Some(server) = server {
            config["clusters"][0]["cluster"] = json!({"server": server});
        }
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).expect("written");
        let log = folder.path().join("log");
        Self { folder, kubeconfig, log }
    }

    /// Starts one. `die` is when it is to kill itself, as `before:17` or `after:3`: the write, counted from 1.
    pub(crate) fn start(&self, die: Option<&str>) -> Life {
        let mut command = cluster().host("router").unwrap().command().unwrap();
        command.arg(env!("CARGO_BIN_EXE_faulty-controller"));
        command.args(["--pod-name=outside", "--namespace", SYSTEM, "--listen=127.0.0.1:9640"]);
        command.args(die.map(|die| format!("--die={die}")));
        command.env("KUBECONFIG", &self.kubeconfig);
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        command.stdout(Stdio::null()).stderr(log);
        Life(command.spawn().expect("the program starts"))
    }

    /// The last lines of what all of them wrote.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- controllers in {}:\n{}", self.folder.path().display(), self.log());
        }
    }
}

/// One of them from its start to its end; killed at the latest with the value.
pub(crate) struct Life(Child);

impl Life {
    /// How it ended, if it has: killed by a signal, or by itself, as one does that cannot renew its Lease.
    pub(crate) fn ended(&mut self) -> Option<Result<i32, ExitStatus>> {
        let status = self.0.try_wait().expect("its state")?;
        Some(status.signal().ok_or(status))
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn terminate(mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).expect("a signal");
        let begin = Instant::now();
        while self.0.try_wait().expect("its state").is_none() {
            assert!(begin.elapsed() < Duration::from_secs(10), "it does not end on SIGTERM");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
