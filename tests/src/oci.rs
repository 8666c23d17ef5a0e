//! OCI images: making one of a single static program, and reading archives that others made.
//!
//! Formats: OCI image specification 1.1 (image layout, manifest, config).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Doing, Error, Result};

const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The digest of some bytes as OCI writes it: `sha256:` and 64 hexadecimal digits.
#[must_use]
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// Writes an OCI archive that holds one image with one program, `/NAME`, as its entry point.
///
/// Nothing in it depends on the time or the machine: the same program gives the same bytes.
pub fn write_program_image(archive: &Path, image: &str, name: &str, program: &Path) -> Result<()> {
    let program = std::fs::read(program).doing(|| format!("read {}", program.display()))?;
    let layer = tar_of(&[(name, &program, 0o755)])?;
    let config = json!({
        "architecture": go_architecture(), "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": [format!("/{name}")], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MEDIA_MANIFEST,
        "config": descriptor(MEDIA_CONFIG, config.as_bytes()),
        "layers": [descriptor(MEDIA_LAYER, &layer)],
    })
    .to_string();
    let mut entry = descriptor(MEDIA_MANIFEST, manifest.as_bytes());
    if let Some(entry) = entry.as_object_mut() {
        entry.insert("annotations".into(), json!({"org.opencontainers.image.ref.name": image}));
    }
    let index = json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [entry]}).to_string();
    let blobs = [config.as_bytes(), manifest.as_bytes(), layer.as_slice()]
        .map(|blob| (blob_path(&digest(blob)), blob));
    let mut files: Vec<(&str, &[u8], u32)> = vec![
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644),
        ("index.json", index.as_bytes(), 0o644),
    ];
    files.extend(blobs.iter().map(|(path, blob)| (path.as_str(), *blob, 0o644)));
    let bytes = tar_of(&files)?;
    std::fs::write(archive, bytes).doing(|| format!("write {}", archive.display()))
}

/// The machine's architecture in Go's words, which are also those of image platforms.
#[must_use]
pub(crate) fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn tar_of(files: &[(&str, &[u8], u32)]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        archive.append_data(&mut header, path, *bytes).doing(|| format!("pack {path}"))?;
    }
    archive.into_inner().doing(|| "pack an archive")
}

/// An OCI archive on disk, indexed so that a blob of any size is read in place.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    entries: BTreeMap<String, (u64, u64)>,
}

/// A manifest (or index of manifests) of an archive, in the order in which a registry takes them: what a
/// manifest refers to comes before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Its digest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// Digests of the config and layers it names.
    pub blobs: Vec<String>,
}

impl Archive {
    /// Opens an archive and reads its table of contents.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).doing(|| format!("open {}", path.display()))?;
        let mut entries = BTreeMap::new();
        let mut tar = tar::Archive::new(file);
        for entry in tar.entries_with_seek().doing(|| format!("read {}", path.display()))? {
            let entry = entry.doing(|| format!("read {}", path.display()))?;
            let name =
                entry.path().doing(|| format!("read {}", path.display()))?.to_string_lossy().into_owned();
            entries
                .insert(name.trim_start_matches("./").to_owned(), (entry.raw_file_position(), entry.size()));
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The image name written in the archive's index, if there is a full one.
    pub(crate) fn image_name(&self) -> Result<Option<String>> {
        let index = self.json("index.json")?;
        let annotations = index.pointer("/manifests/0/annotations");
        let named = |key: &str| annotations.and_then(|a| a.get(key)).and_then(Value::as_str);
        let name = named("io.containerd.image.name").or_else(|| named("org.opencontainers.image.ref.name"));
        // A bare "latest" is a tag, not a name: without a repository there is nothing to push to.
        Ok(name.filter(|name| name.contains('/') || name.contains(':')).map(str::to_owned))
    }

    /// All manifests of the archive's one image; the last is the image itself.
    pub(crate) fn manifests(&self) -> Result<Vec<Manifest>> {
        let index = self.json("index.json")?;
        let top = index.pointer("/manifests/0").ok_or_else(|| self.odd("its index names no image"))?;
        let mut found = Vec::new();
        self.collect(top, &mut found, 0)?;
        Ok(found)
    }

    fn collect(&self, descriptor: &Value, found: &mut Vec<Manifest>, depth: u8) -> Result<()> {
        if depth > 4 {
            return Err(self.odd("its indexes are nested too deeply"));
        }
        let text = |key: &str| descriptor.get(key).and_then(Value::as_str).map(str::to_owned);
        let digest = text("digest").ok_or_else(|| self.odd("a descriptor lacks its digest"))?;
        let bytes = self.bytes(&blob_path(&digest))?;
        let value: Value =
            serde_json::from_slice(&bytes).doing(|| format!("read {digest} of {}", self.path.display()))?;
        for child in value.get("manifests").and_then(Value::as_array).into_iter().flatten() {
            self.collect(child, found, depth + 1)?;
        }
        let parts = value
            .get("config")
            .into_iter()
            .chain(value.get("layers").and_then(Value::as_array).into_iter().flatten());
        let blobs = parts.filter_map(|part| part.get("digest")?.as_str().map(str::to_owned)).collect();
        let media_type = text("mediaType").unwrap_or_else(|| MEDIA_MANIFEST.to_owned());
        found.push(Manifest { digest, media_type, bytes, blobs });
        Ok(())
    }

    /// Opens a blob for reading; the second value is its size in bytes.
    pub(crate) fn blob(&self, digest: &str) -> Result<(impl Read + use<>, u64)> {
        let path = blob_path(digest);
        let (offset, size) = *self.entries.get(&path).ok_or_else(|| self.odd(&format!("it lacks {path}")))?;
        let mut file = File::open(&self.path).doing(|| format!("open {}", self.path.display()))?;
        file.seek(SeekFrom::Start(offset)).doing(|| format!("read {}", self.path.display()))?;
        Ok((file.take(size), size))
    }

    fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let (offset, size) = *self.entries.get(path).ok_or_else(|| self.odd(&format!("it lacks {path}")))?;
        let mut file = File::open(&self.path).doing(|| format!("open {}", self.path.display()))?;
        file.seek(SeekFrom::Start(offset)).doing(|| format!("read {}", self.path.display()))?;
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes).doing(|| format!("read {}", self.path.display()))?;
        Ok(bytes)
    }

    fn json(&self, path: &str) -> Result<Value> {
        serde_json::from_slice(&self.bytes(path)?).doing(|| format!("read {path} of {}", self.path.display()))
    }

    fn odd(&self, what: &str) -> Error {
        Error::Usage(format!("{} is not an OCI archive this lab can push: {what}", self.path.display()))
    }
}

/// A full image name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageName {
    /// Host (and port) of the registry, as `gcr.io`.
    pub host: String,
    /// Path of the repository at that host, as `google-samples/node-hello`.
    pub path: String,
    /// The tag.
    pub tag: String,
}

impl ImageName {
    /// Takes a name apart as container runtimes do: no host means `docker.io`, no tag means `latest`.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let (first, rest) = name.split_once('/').unwrap_or(("", name));
        let is_host = first.contains('.') || first.contains(':') || first == "localhost";
        let (host, path) = match (is_host, first) {
            (true, host) => (host, rest.to_owned()),
            (false, "") => ("docker.io", format!("library/{rest}")),
            (false, _) => ("docker.io", name.to_owned()),
        };
        let (path, tag) = path.rsplit_once(':').map_or((path.as_str(), "latest"), |(path, tag)| (path, tag));
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        if path.is_empty() || tag.is_empty() || !path.chars().all(good) {
            return Err(Error::Usage(format!(
                "\"{name}\" is not an image name with a tag, as landfall.dev/speaker:0.1.0"
            )));
        }
        Ok(Self { host: host.to_owned(), path: path.to_owned(), tag: tag.to_owned() })
    }

    /// Repository in the lab's registry: below a folder per host, so that equal paths at two hosts do not meet.
    #[must_use]
    pub(crate) fn repository(&self) -> String {
        format!("{}/{}", host_folder(&self.host), self.path)
    }
}

/// A registry host as a repository path component, which may hold no colon.
#[must_use]
pub(crate) fn host_folder(host: &str) -> String {
    host.to_ascii_lowercase().replace(':', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_are_taken_apart_as_runtimes_do() {
        for (name, host, path, tag) in [
            ("gcr.io/google-samples/node-hello:1.0", "gcr.io", "google-samples/node-hello", "1.0"),
            ("landfall.dev/speaker:0.1.0", "landfall.dev", "speaker", "0.1.0"),
            ("nginx", "docker.io", "library/nginx", "latest"),
            ("bitnami/nginx:1", "docker.io", "bitnami/nginx", "1"),
            ("localhost:5000/x:2", "localhost:5000", "x", "2"),
        ] {
            let expected = ImageName { host: host.into(), path: path.into(), tag: tag.into() };
            assert_eq!(ImageName::parse(name).unwrap(), expected, "{name}");
        }
        assert_eq!(ImageName::parse("localhost:5000/x:2").unwrap().repository(), "localhost_5000/x");
        assert!(ImageName::parse("gcr.io/:1").is_err());
        assert!(ImageName::parse("gcr.io/UPPER:1").is_err());
    }

    #[test]
    fn a_written_image_reads_back_whole_and_is_the_same_twice() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, b"#!/bin/sh\n").unwrap();
        let (first, second) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
        for archive in [&first, &second] {
            write_program_image(archive, "example.org/a/b:1", "hello", &program).unwrap();
        }
        assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
        let archive = Archive::open(&first).unwrap();
        assert_eq!(archive.image_name().unwrap().as_deref(), Some("example.org/a/b:1"));
        let manifests = archive.manifests().unwrap();
        assert_eq!(manifests.len(), 1);
        assert_eq!(manifests[0].digest, digest(&manifests[0].bytes));
        assert_eq!(manifests[0].blobs.len(), 2);
        for blob in &manifests[0].blobs {
            let (mut reader, size) = archive.blob(blob).unwrap();
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, size);
            assert_eq!(&digest(&bytes), blob);
        }
    }

    #[test]
    fn a_tar_without_an_index_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odd.tar");
        std::fs::write(&path, tar_of(&[("x", b"y", 0o644)]).unwrap()).unwrap();
        let error = Archive::open(&path).unwrap().manifests().unwrap_err().to_string();
        assert!(error.contains("odd.tar") && error.contains("index.json"), "{error}");
    }
}
