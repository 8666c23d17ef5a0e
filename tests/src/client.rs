//! The API server of a lab through the `kube` client, for what takes many requests or a watch.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::netns;
use crate::plan::HostName;

/// Where the API server of a lab is and who may ask it: all that [`Door::open`] needs, without the lab.
#[derive(Debug, Clone)]
pub struct Door {
    netns: String,
    kubeconfig: PathBuf,
}

impl Lab {
    /// The way to the API server for the administrator.
    #[must_use]
    pub fn door(&self) -> Door {
        Door { netns: self.name().netns(HostName::Router), kubeconfig: self.kubeconfig() }
    }
}

impl Door {
    /// Runs a future with a client. Connections are made from the router's namespace, as those of the control
    /// plane are.
    pub fn open<T: Send>(&self, work: impl AsyncFnOnce(kube::Client) -> T + Send) -> Result<T> {
        let failed = |what: &str, error: &dyn std::error::Error| Error::Answer(format!("{what}: {error}"));
        netns::inside(&self.netns, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| failed("start a runtime", &error))?;
            runtime.block_on(async {
                let file = Kubeconfig::read_from(&self.kubeconfig);
                let file = file.map_err(|error| failed("read the kubeconfig", &error))?;
                let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
                let config = config.map_err(|error| failed("use the kubeconfig", &error))?;
                let client = kube::Client::try_from(config);
                Ok(work(client.map_err(|error| failed("make a client", &error))?).await)
            })
        })?
    }
}
