//! Pushing images into the lab's registry, and telling containerd to find them there under their own names.
//!
//! Protocol: OCI distribution specification 1.1 (blob upload in one piece, manifest by tag).

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::error::{Doing, Error, Result};
use crate::http::{self, Request, Response};
use crate::oci::{Archive, ImageName, Manifest, host_folder};
use crate::plan::{REGISTRY_PORT, url_host};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Registries whose images containerd looks for in the lab from the start; pushing adds others.
pub(crate) const KNOWN_HOSTS: [&str; 6] =
    ["docker.io", "gcr.io", "ghcr.io", "landfall.dev", "quay.io", "registry.k8s.io"];

/// Pushes an archive's image under `name`; call it inside the LAN's network namespace. Blobs that the registry
/// has already are not sent again.
pub(crate) fn push(registry: SocketAddr, archive: &Archive, name: &ImageName) -> Result<()> {
    let repository = name.repository();
    let manifests = archive.manifests()?;
    let Some((image, parts)) = manifests.split_last() else {
        return Err(Error::Answer(format!("no manifest to push as {repository}")));
    };
    for blob in manifests.iter().flat_map(|manifest| &manifest.blobs) {
        push_blob(registry, &repository, archive, blob)?;
    }
    for part in parts {
        push_manifest(registry, &repository, part, &part.digest)?;
    }
    push_manifest(registry, &repository, image, &name.tag)
}

fn push_blob(registry: SocketAddr, repository: &str, archive: &Archive, digest: &str) -> Result<()> {
    let path = format!("/v2/{repository}/blobs/{digest}");
    let head = Request { method: "HEAD", path: &path, headers: &[], body: None };
    if http::send(registry, head, TIMEOUT)?.status == 200 {
        return Ok(());
    }
    let path = format!("/v2/{repository}/blobs/uploads/");
    let start =
        http::send(registry, Request { method: "POST", path: &path, headers: &[], body: None }, TIMEOUT)?;
    let start = http::expect(start, &[202], "the registry, asked to take a blob,")?;
    let upload = upload_path(&start, digest)?;
    let (mut body, length) = archive.blob(digest)?;
    let headers = ["Content-Type: application/octet-stream".to_owned()];
    let put = Request { method: "PUT", path: &upload, headers: &headers, body: Some((&mut body, length)) };
    http::expect(http::send(registry, put, TIMEOUT)?, &[201], "the registry, given a blob,")?;
    Ok(())
}

/// Path of an upload's last request: the Location of the first with the digest added to its query.
fn upload_path(start: &Response, digest: &str) -> Result<String> {
    let location = start
        .header("location")
        .ok_or_else(|| Error::Answer("the registry began an upload without saying where".into()))?;
    let path = match location.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or("/"),
        None => location,
    };
    let joint = if path.contains('?') { '&' } else { '?' };
    Ok(format!("{path}{joint}digest={digest}"))
}

fn push_manifest(registry: SocketAddr, repository: &str, manifest: &Manifest, reference: &str) -> Result<()> {
    let path = format!("/v2/{repository}/manifests/{reference}");
    let headers = [format!("Content-Type: {}", manifest.media_type)];
    let mut body = manifest.bytes.as_slice();
    let length = body.len() as u64;
    let put = Request { method: "PUT", path: &path, headers: &headers, body: Some((&mut body, length)) };
    http::expect(http::send(registry, put, TIMEOUT)?, &[201], "the registry, given a manifest,")?;
    Ok(())
}

/// Writes containerd's host file for one registry name: all its images come from the lab's registry, from a
/// folder of that name. containerd reads the file at each pull, so a running node learns at once.
pub(crate) fn write_mirror(certs: &Path, host: &str, registry: IpAddr) -> Result<()> {
    let folder = certs.join(host);
    std::fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
    let url = format!("http://{}:{REGISTRY_PORT}/v2/{}", url_host(registry), host_folder(host));
    // `server` as well: without it containerd goes on to ask the real registry and reports that failure instead
    // of "not found".
    let text = format!(
        "server = \"{url}\"\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n"
    );
    let file = folder.join("hosts.toml");
    std::fs::write(&file, text).doing(|| format!("write {}", file.display()))
}

/// Configuration of the registry program: plain HTTP on every address, storage in `folder`.
#[must_use]
pub(crate) fn configuration(folder: &Path) -> String {
    format!(
        "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
         delete: {{enabled: true}}\nhttp: {{addr: \":{REGISTRY_PORT}\", secret: lab}}\n",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(location: &str) -> Response {
        Response { status: 202, headers: vec![("location".into(), location.into())], body: Vec::new() }
    }

    #[test]
    fn an_upload_ends_where_the_registry_says() {
        let path = upload_path(&started("http://192.0.2.1:5000/v2/a/blobs/uploads/1?_state=x"), "sha256:00")
            .unwrap();
        assert_eq!(path, "/v2/a/blobs/uploads/1?_state=x&digest=sha256:00");
        let path = upload_path(&started("/v2/a/blobs/uploads/1"), "sha256:00").unwrap();
        assert_eq!(path, "/v2/a/blobs/uploads/1?digest=sha256:00");
    }

    #[test]
    fn a_mirror_file_sends_each_registry_to_a_folder_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        for (host, address, url) in [
            ("gcr.io", "192.0.2.1", "http://192.0.2.1:5000/v2/gcr.io"),
            ("quay.io", "2001:db8:50::1", "http://[2001:db8:50::1]:5000/v2/quay.io"),
        ] {
            write_mirror(folder.path(), host, address.parse().unwrap()).unwrap();
            let text = std::fs::read_to_string(folder.path().join(host).join("hosts.toml")).unwrap();
            assert!(text.contains(&format!("[host.\"{url}\"]")), "{text}");
        }
    }
}
