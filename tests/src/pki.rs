//! The lab's certificates, keys and tokens.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

use crate::error::{Doing, Error, Result};
use crate::plan::{API_PORT, Families, HostName, url_host};

/// Names of the control plane's own users, with the group that gives one its rights.
const USERS: [(&str, &str); 4] = [
    ("admin", "system:masters"),
    ("system:kube-controller-manager", ""),
    ("system:kube-scheduler", ""),
    ("system:kube-proxy", ""),
];

/// The folder of the lab's keys.
#[derive(Debug, Clone)]
pub(crate) struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// The keys in `folder`.
    #[must_use]
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// A file of the folder: `ca.crt`, `apiserver.crt`, `apiserver.key`, `kubelet-client.crt`,
    /// `kubelet-client.key`, `service-accounts.key`, `tokens.csv`.
    #[must_use]
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes everything anew: a certificate authority, the API server's certificate, its client certificate for
    /// kubelets, the service accounts' key and a token for each user.
    pub(crate) fn create(&self, families: Families, nodes: u8) -> Result<()> {
        fs::create_dir_all(&self.folder).doing(|| format!("create {}", self.folder.display()))?;
        self.certificates(families)
            .map_err(|error| Error::Answer(format!("make certificates: {error}")))??;
        let mut tokens = String::new();
        for (user, group) in USERS {
            tokens.extend([token(user), format!(",{user},{user},{group}\n")]);
        }
        for node in 1..=nodes {
            let user = node_user(node);
            tokens.extend([token(&user), format!(",{user},{user},system:nodes\n")]);
        }
        self.write("tokens.csv", &tokens)
    }

    fn certificates(&self, families: Families) -> Result<Result<()>, rcgen::Error> {
        let mut authority = named("landfall-lab", &[])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority_key = KeyPair::generate()?;
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let mut server = named("kube-apiserver", &[])?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ] {
            server.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        let mut addresses: Vec<IpAddr> = families.addresses(HostName::Router);
        addresses
            .extend(families.pick::<IpAddr>([10, 96, 0, 1].into(), [0xfd00, 0x96, 0, 0, 0, 0, 0, 1].into()));
        addresses.push([127, 0, 0, 1].into());
        server.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
        let server_key = KeyPair::generate()?;
        let server_pem = server.signed_by(&server_key, &issuer)?.pem();

        let mut client = named("kube-apiserver-kubelet-client", &["system:masters"])?;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client_key = KeyPair::generate()?;
        let client_pem = client.signed_by(&client_key, &issuer)?.pem();

        let service_accounts = KeyPair::generate()?;
        Ok([
            ("ca.crt", authority_pem),
            ("apiserver.crt", server_pem),
            ("apiserver.key", server_key.serialize_pem()),
            ("kubelet-client.crt", client_pem),
            ("kubelet-client.key", client_key.serialize_pem()),
            ("service-accounts.key", service_accounts.serialize_pem()),
            ("service-accounts.pub", service_accounts.public_key_pem()),
        ]
        .iter()
        .try_for_each(|(name, text)| self.write(name, text)))
    }

    /// Writes a kubeconfig for one user, with the certificate authority inside, so that the file works wherever
    /// it is copied to.
    pub(crate) fn write_kubeconfig(&self, file: &Path, user: &str, server: IpAddr) -> Result<()> {
        let authority = self.file("ca.crt");
        let authority = fs::read(&authority).doing(|| format!("read {}", authority.display()))?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {
                "server": format!("https://{}:{API_PORT}", url_host(server)),
                "certificate-authority-data": base64(&authority),
            }}],
            "users": [{"name": user, "user": {"token": token(user)}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        });
        write_private(file, &config.to_string())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        write_private(&self.file(name), text)
    }
}

/// The user name of a node's kubelet, as the Node authorizer expects it.
#[must_use]
pub(crate) fn node_user(node: u8) -> String {
    format!("system:node:{}", HostName::Node(node))
}

/// The token of a user. It is no secret: the API server it opens is reachable from inside the lab only.
fn token(user: &str) -> String {
    format!("lab-{}", user.replace(':', "-"))
}

fn named(common_name: &str, organisations: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    for organisation in organisations {
        params.distinguished_name.push(DnType::OrganizationName, *organisation);
    }
    Ok(params)
}

fn write_private(file: &Path, text: &str) -> Result<()> {
    let open = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(file);
    open.and_then(|mut file| file.write_all(text.as_bytes())).doing(|| format!("write {}", file.display()))
}

/// Base64 with padding (RFC 4648, section 4), the form of a kubeconfig's data fields.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            (0..3).fold(0_u32, |group, at| group << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4_usize {
            let index = (group >> (18 - 6 * at) & 0x3f) as usize;
            let letter = ALPHABET.get(index).copied().unwrap_or(b'=');
            text.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_rfc_vectors() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn every_user_of_the_lab_has_a_token_and_every_key_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::at(folder.path().join("pki"));
        pki.create(Families::Dual, 2).unwrap();
        let tokens = fs::read_to_string(pki.file("tokens.csv")).unwrap();
        assert!(tokens.contains("lab-system-node-n2,system:node:n2,system:node:n2,system:nodes\n"));
        assert!(tokens.contains("lab-admin,admin,admin,system:masters\n"));
        for name in ["ca.crt", "apiserver.crt", "apiserver.key", "kubelet-client.crt", "service-accounts.key"]
        {
            assert!(fs::read_to_string(pki.file(name)).unwrap().starts_with("-----BEGIN "), "{name}");
        }
        let config = folder.path().join("admin.conf");
        pki.write_kubeconfig(&config, "admin", "2001:db8:50::1".parse().unwrap()).unwrap();
        assert!(fs::read_to_string(config).unwrap().contains("https://[2001:db8:50::1]:6443"));
    }
}
