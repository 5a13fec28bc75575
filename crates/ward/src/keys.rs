//! Keys of the node: the root from where the mesh says it is, the token signer, and TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Clock, Entropy, SystemEntropy, Timestamp};
use clinical::{Source, TlsMode};
use gate::TokenIssuer;
use net::DevCertificates;
use vault::{
    Epoch, FileRoot, FileRootKeys, KeyTable, PassphraseCost, RootKeys, RootSecret, Vault, VaultError, VaultOptions,
};

use crate::config::{Config, secret_from_environment, secret_from_file};
use crate::node::StartError;

fn failed(doing: &str) -> impl FnOnce(String) -> StartError {
    let doing = doing.to_owned();
    move |why| StartError { doing, why }
}

/// Opens the vault over the root keys, within the node's limits.
pub async fn open_vault(
    config: &Config,
    root: Arc<dyn RootKeys>,
    table: Arc<dyn KeyTable>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<Vault, StartError> {
    let limits = &config.mesh.limits;
    let options = VaultOptions {
        root_call_ms_max: limits.key_service_timeout_ms,
        root_calls_max: limits.key_service_calls_max,
        ..VaultOptions::default()
    };
    let vault = Vault::open_with(root, table, clock, entropy, options)
        .await
        .map_err(|error| failed("opening the keys")(error.to_string()))?;
    // A turn of the epoch that a crash cut short goes on now.
    // An outage here stops no start: the scheduler tries again.
    match vault.finish_turn().await {
        Ok(turn) if turn.damaged.is_empty() => {}
        Ok(turn) => {
            tracing::error!(scopes = turn.damaged.len(), "scope keys are damaged: their old epoch keys are kept");
        }
        Err(error) => tracing::error!(%error, "a turn of the key epoch could not be finished yet"),
    }
    Ok(vault)
}

/// The root keys in files that `[keys] root` names. The first start of a mesh makes its epoch keys.
pub async fn open_files(
    config: &Config,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Arc<FileRootKeys>, StartError> {
    let doing = "opening the keys";
    let root = file_root(config)?;
    let keys = {
        let (entropy, now) = (entropy.clone(), clock.now());
        // Argon2id takes its time.
        tokio::task::spawn_blocking(move || match FileRootKeys::open(&root, entropy.clone()) {
            Err(VaultError::NotInitialised) => FileRootKeys::init(&root, entropy, now),
            other => other,
        })
        .await
        .map_err(|error| failed(doing)(error.to_string()))?
        .map_err(|error| failed(doing)(error.to_string()))?
    };
    Ok(Arc::new(keys))
}

/// Epoch keys lie beside the machine key, away from the data: a backup of the data never holds them.
pub fn file_root(config: &Config) -> Result<FileRoot, StartError> {
    root_of(&config.mesh.keys.root, &config.folder, config.data())
}

/// The root that a text like `[keys] root` names, relative to `folder`.
pub fn root_of(text: &str, folder: &Path, data_folder: PathBuf) -> Result<FileRoot, StartError> {
    let doing = "reading [keys] root";
    match text.split_once(':') {
        Some(("file", path)) => {
            let path = folder.join(path);
            let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
            Ok(FileRoot { folder, data_folder, secret: RootSecret::MachineKey { path } })
        }
        Some(("passphrase-env", name)) => {
            let passphrase = secret_from_environment(name)
                .ok_or_else(|| failed(doing)(format!("the environment variable {name} is not set")))?;
            let secret = RootSecret::Passphrase { passphrase, cost: PassphraseCost::default() };
            Ok(FileRoot { folder: folder.join("keys"), data_folder, secret })
        }
        Some(("passphrase-file", path)) => {
            let path = folder.join(path);
            let passphrase = secret_from_file(&path)
                .map_err(|error| failed(doing)(format!("the passphrase in {}: {error}", path.display())))?;
            let secret = RootSecret::Passphrase { passphrase, cost: PassphraseCost::default() };
            Ok(FileRoot { folder: folder.join("keys"), data_folder, secret })
        }
        _ => Err(failed(doing)("it is of no known kind".into())),
    }
}

/// The living epochs as the files have them, and when each began. Changes nothing.
pub fn look(config: &Config) -> Result<Vec<(Epoch, Option<Timestamp>)>, StartError> {
    FileRootKeys::look(&file_root(config)?).map_err(|error| failed("opening the root keys")(error.to_string()))
}

/// Root keys that are there already.
pub fn open_root(root: &FileRoot) -> Result<Arc<dyn RootKeys>, StartError> {
    let opened = FileRootKeys::open(root, Arc::new(SystemEntropy))
        .map_err(|error| failed("opening the root keys")(error.to_string()))?;
    Ok(Arc::new(opened))
}

/// The folder beside the data where root and epoch keys lie, and what must be known of the node from outside its data.
pub fn outside_folder(config: &Config) -> PathBuf {
    match config.mesh.keys.root.split_once(':') {
        Some(("file", path)) => config.folder.join(path).parent().unwrap_or(&config.folder).to_owned(),
        _ => config.folder.join("keys"),
    }
}

/// The node's identity provider: ES256 under a key from the vault.
pub async fn token_issuer(config: &Config, vault: &Vault) -> Result<TokenIssuer, StartError> {
    let doing = "opening the token key";
    let key = vault.es256_pkcs8("tokens").await.map_err(|error| failed(doing)(error.to_string()))?;
    let issuer = format!("urn:wardmesh:{}", config.mesh.name);
    TokenIssuer::from_pkcs8(&key, &issuer, &issuer, config.mesh.limits.token_ttl_ms_max)
        .map_err(|error| failed(doing)(error.to_string()))
}

/// TLS of the HTTP doors.
pub fn http_tls(config: &Config) -> Result<Arc<rustls::ServerConfig>, StartError> {
    let doing = "setting up TLS";
    let (certificate, key) = certificate(config)?;
    net::server_config(&certificate, &key, None, &["h2", "http/1.1"]).map_err(|error| failed(doing)(error.to_string()))
}

/// TLS of one source's listener, as its `tls` says.
pub fn source_tls(config: &Config, source: &Source) -> Result<Option<Arc<rustls::ServerConfig>>, StartError> {
    if source.tls == TlsMode::None {
        return Ok(None);
    }
    let (certificate, key) = certificate(config)?;
    let authorities = match source.tls {
        TlsMode::Mutual => source.client_authorities.as_ref().map(|path| config.folder.join(path)),
        TlsMode::Server | TlsMode::None => None,
    };
    net::server_config(&certificate, &key, authorities.as_deref(), &[])
        .map(Some)
        .map_err(|error| failed(&format!("setting up TLS of source {}", source.name))(error.to_string()))
}

fn certificate(config: &Config) -> Result<(std::path::PathBuf, std::path::PathBuf), StartError> {
    let certificate = config.folder.join(&config.mesh.tls.certificate);
    let key = config.folder.join(&config.mesh.tls.key);
    if config.mesh.tls.development
        && let Some(folder) = certificate.parent()
    {
        DevCertificates::ensure(folder)
            .map_err(|error| failed("making development certificates")(error.to_string()))?;
    }
    Ok((certificate, key))
}
