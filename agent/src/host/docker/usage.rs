//! What the engine keeps, by its own account, and the removal of single objects.
//!
//! The account is asked in an API version that engines from 20.10 to 29 all speak and in which it is whole: later
//! versions answer with totals alone unless asked otherwise, and the client library knows only those.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use bollard::{
    models::Network,
    query_parameters::{
        ListNetworksOptions, PruneBuildOptionsBuilder, RemoveContainerOptionsBuilder,
        RemoveImageOptionsBuilder, RemoveVolumeOptionsBuilder,
    },
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    net::UnixStream,
    time::{Instant, timeout_at},
};

use super::{Engine, EngineError};

/// The last version with every object in the account; an older engine is asked in its own.
const WHOLE: (u32, u32) = (1, 44);

/// The account of a host with thousands of images is a few megabytes.
const ACCOUNT: usize = 64 * 1024 * 1024;

/// Removing an image of many layers takes the engine seconds.
const REMOVAL: Duration = Duration::from_secs(60);

/// Everything that the engine keeps. A list that is `None` was not told, which is not the same as an empty one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Usage {
    pub layers_size: u64,
    pub images: Option<Vec<ImageUsage>>,
    pub containers: Option<Vec<ContainerUsage>>,
    pub volumes: Option<Vec<VolumeUsage>>,
    pub build_cache: Option<Vec<CacheUsage>>,
}

/// An image. Sizes are -1 where the engine did not count.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageUsage {
    pub id: String,
    pub parent_id: String,
    pub repo_tags: Option<Vec<String>>,
    pub repo_digests: Option<Vec<String>>,
    pub labels: Option<HashMap<String, String>>,
    /// Unix seconds.
    pub created: i64,
    pub size: i64,
    pub shared_size: i64,
}

/// A container, running or not.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerUsage {
    pub id: String,
    pub names: Option<Vec<String>>,
    pub image: String,
    #[serde(rename = "ImageID")]
    pub image_id: String,
    pub labels: Option<HashMap<String, String>>,
    pub state: String,
    pub created: i64,
    pub size_rw: i64,
    pub mounts: Option<Vec<MountUsage>>,
    pub network_settings: Option<NetworksUsage>,
}

/// What a container mounts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountUsage {
    pub name: String,
    pub source: String,
}

/// The networks that a container is in.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworksUsage {
    pub networks: Option<HashMap<String, serde::de::IgnoredAny>>,
}

/// A volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeUsage {
    pub name: String,
    pub mountpoint: String,
    pub labels: Option<HashMap<String, String>>,
    pub created_at: String,
    pub usage_data: Option<VolumeSize>,
}

/// -1 where the engine did not count.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeSize {
    pub size: i64,
    pub ref_count: i64,
}

/// A record of the build cache.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CacheUsage {
    #[serde(rename = "ID")]
    pub id: String,
    pub description: String,
    pub in_use: bool,
    pub shared: bool,
    pub size: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    api_version: String,
}

impl Engine {
    /// Everything that the engine keeps, with sizes. The engine walks every volume for it, so it may take until the
    /// deadline.
    ///
    /// # Errors
    /// When the engine cannot be asked, or answers what is not understood.
    pub async fn usage(&self, deadline: Instant) -> Result<Usage, EngineError> {
        let quick = deadline.min(Instant::now() + self.patience);
        let version: Version = self.get("/version", "version", quick).await?;
        let own =
            version.api_version.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (major, minor) = own.unwrap_or(WHOLE).min(WHOLE);
        self.get(&format!("/v{major}.{minor}/system/df"), "system df", deadline).await
    }

    /// Networks by name and id.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn networks(&self) -> Result<Vec<Network>, EngineError> {
        self.call("list networks", async |client| client.list_networks(None::<ListNetworksOptions>).await)
            .await
    }

    /// Removes one image by id, without force: the engine refuses what is used. Its tags go first, since an id with
    /// several is refused too; the engine deletes an image with its last tag. A tag that another image has by now stays,
    /// and so does an image that has got one more.
    ///
    /// # Errors
    /// When it is used, gone, called otherwise by now, or the engine cannot be asked.
    pub async fn remove_image(&self, id: &str, tags: &[String]) -> Result<(), EngineError> {
        let now = self.image(id).await?.repo_tags.unwrap_or_default();
        if let Some(new) = now.iter().find(|name| !tags.contains(name)) {
            return Err(EngineError::Changed(format!("the image is called {new} by now")));
        }
        let options = || RemoveImageOptionsBuilder::default().force(false).noprune(true).build();
        let remove = async |name: &str| {
            self.slowly("remove an image", async |client| {
                client.remove_image(name, Some(options()), None).await.map(|_| ())
            })
            .await
            .map_err(|error| error.naming("image", name))
        };
        let mut removed = false;
        for tag in &now {
            match self.image(tag).await {
                Ok(found) if found.id.as_deref() == Some(id) => {
                    remove(tag).await?;
                    removed = true;
                }
                // The tag has gone, or to another image.
                Ok(_) | Err(EngineError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if removed { Ok(()) } else { remove(id).await }
    }

    /// Removes one stopped container, without force and without its volumes.
    ///
    /// # Errors
    /// When it runs, is gone, or the engine cannot be asked.
    pub async fn remove_container(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::default().force(false).v(false).build();
        self.slowly("remove a container", async |client| client.remove_container(id, Some(options)).await)
            .await
            .map_err(|error| error.naming("container", id))
    }

    /// Removes one volume, without force.
    ///
    /// # Errors
    /// When a container has it, it is gone, or the engine cannot be asked.
    pub async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveVolumeOptionsBuilder::default().force(false).build();
        self.slowly("remove a volume", async |client| client.remove_volume(name, Some(options)).await)
            .await
            .map_err(|error| error.naming("volume", name))
    }

    /// Removes one network.
    ///
    /// # Errors
    /// When a container is in it, it is gone, or the engine cannot be asked.
    pub async fn remove_network(&self, id: &str) -> Result<(), EngineError> {
        self.slowly("remove a network", async |client| client.remove_network(id).await)
            .await
            .map_err(|error| error.naming("network", id))
    }

    /// Removes one record of the build cache; tells whether it went.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn remove_cache(&self, id: &str) -> Result<bool, EngineError> {
        let filters = HashMap::from([("id", vec![id])]);
        let options = PruneBuildOptionsBuilder::default().all(true).filters(&filters).build();
        let gone =
            self.slowly("remove build cache", async |client| client.prune_build(Some(options)).await).await?;
        Ok(gone.caches_deleted.is_some_and(|ids| ids.iter().any(|deleted| deleted == id)))
    }

    async fn slowly<T, F>(&self, name: &'static str, ask: F) -> Result<T, EngineError>
    where
        F: AsyncFnOnce(bollard::Docker) -> Result<T, bollard::errors::Error>,
    {
        let patient = Self { patience: REMOVAL, ..self.clone() };
        patient.call(name, ask).await
    }

    /// One question in the engine's own words.
    async fn get<T: for<'a> Deserialize<'a>>(
        &self,
        path: &str,
        call: &'static str,
        deadline: Instant,
    ) -> Result<T, EngineError> {
        let begun = Instant::now();
        let socket = || PathBuf::clone(&self.socket);
        if !self.socket.exists() {
            return Err(self.no_socket());
        }
        let unreachable = |source: std::io::Error| EngineError::Unreachable {
            socket: socket(),
            source: Box::new(source.into()),
        };
        let ask = async {
            let stream = UnixStream::connect(&*self.socket).await.map_err(unreachable)?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| unreachable(std::io::Error::other(error)))?;
            let request = http::Request::get(path)
                .header("host", "docker")
                .body(Empty::<Bytes>::new())
                .map_err(|error| unreachable(std::io::Error::other(error)))?;
            let answer = async {
                let answer = sender
                    .send_request(request)
                    .await
                    .map_err(|error| unreachable(std::io::Error::other(error)))?;
                let status = answer.status().as_u16();
                let body = Limited::new(answer.into_body(), ACCOUNT)
                    .collect()
                    .await
                    .map_err(|error| unreachable(std::io::Error::other(error)))?
                    .to_bytes();
                let refused = |message: String| EngineError::Refused {
                    call,
                    source: Box::new(bollard::errors::Error::DockerResponseServerError {
                        status_code: status,
                        message,
                    }),
                };
                if status != 200 {
                    return Err(refused(String::from_utf8_lossy(&body).into_owned()));
                }
                serde_json::from_slice(&body).map_err(|error| refused(error.to_string()))
            };
            tokio::pin!(connection);
            tokio::select! {
                found = answer => found,
                // The engine went away in the middle.
                ended = &mut connection => Err(unreachable(match ended {
                    Ok(()) => std::io::ErrorKind::UnexpectedEof.into(),
                    Err(error) => std::io::Error::other(error),
                })),
            }
        };
        timeout_at(deadline, ask)
            .await
            .unwrap_or_else(|_| Err(EngineError::Hung { call, after: begun.elapsed() }))
    }
}
