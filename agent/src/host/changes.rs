//! What changed on this host: containers, their images and files, compared with what they were when the agent last looked.
//!
//! Owns `changes.json` in the agent's state folder, which holds digests, names and a bounded history, and no value of
//! any variable: what a variable was is kept as a keyed digest, so that a change is seen and nothing can be read from
//! it. Packages, reboots and orders have records of their own on the host and are read there.

mod files;

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use vigie_proto::v1::Change;

use super::{
    Host,
    docker::{Engine, EngineError, container},
};
use files::{compare, files, places};

/// The format's number. A file of a later one is left alone.
const VERSION: u32 = 1;

/// Weeks of a host that is deployed daily.
const HISTORY: usize = 300;

/// Files that are watched; a configuration of more is no configuration of one machine.
const FILES: usize = 1000;

/// Names of images that are watched: as many services run on one machine at most.
const IMAGES: usize = 64;

/// A configuration file larger than this is none.
const LONGEST: u64 = 1024 * 1024;

const NGINX: &str = "/etc/nginx";

/// What the agent knows of the past.
#[derive(Default)]
pub struct Changes {
    path: Option<PathBuf>,
    /// Held by the one look that is under way, so that an older one never writes over a newer one.
    looking: Mutex<()>,
    /// Held for moments: what was seen can be told while an engine hangs.
    known: Mutex<Known>,
}

#[derive(Default, Serialize, Deserialize)]
struct Known {
    version: u32,
    /// 0 until the first look, which finds nothing changed.
    since_ms: i64,
    looked_ms: i64,
    /// Keys the digests of variables.
    salt: String,
    files: BTreeMap<PathBuf, SeenFile>,
    containers: BTreeMap<String, SeenContainer>,
    /// By the name that a service's container was made from.
    #[serde(default)]
    images: BTreeMap<String, SeenImage>,
    /// Oldest first.
    history: VecDeque<Noted>,
    /// Set where the file must not be written over.
    #[serde(skip)]
    sealed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeenFile {
    kind: Kind,
    stack: String,
    /// What tells without reading that a file is as it was: when it was written, in seconds, and touched, in nanoseconds,
    /// its size and inode.
    stamp: (i64, i64, u64, u64),
    digest: String,
    /// Of an env file: names, with keyed digests of their values.
    names: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Compose,
    Env,
    Nginx,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Compose => "compose",
            Self::Env => "env",
            Self::Nginx => "nginx",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeenContainer {
    id: String,
    image: String,
    image_id: String,
    stack: String,
    service: String,
    created_ms: i64,
}

/// What a name of an image stands for, whether a container runs it or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeenImage {
    /// Empty where the name stands for nothing.
    id: String,
    stack: String,
    service: String,
    /// When the engine says that the name was given; 0 where it does not.
    #[serde(skip)]
    tagged_ms: i64,
}

/// A change as it is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Noted {
    at_ms: i64,
    kind: String,
    what: String,
    says: String,
    stack: String,
    service: String,
    before: String,
    after: String,
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

impl Changes {
    /// What this state folder remembers. A file that cannot be read begins anew, and says so in the agent's log; one
    /// of a later agent is left alone.
    pub fn open(state: &Path) -> Self {
        let path = state.join("changes.json");
        let known = match fs::read(&path) {
            Ok(text) => match serde_json::from_slice::<Known>(&text) {
                Ok(known) if known.version <= VERSION => known,
                Ok(_) => Known { sealed: true, ..Known::default() },
                Err(error) => {
                    tracing::warn!(%error, "what changed earlier is not remembered");
                    Known::default()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Known::default(),
            Err(error) => {
                tracing::warn!(%error, "what changed earlier is not remembered");
                Known { sealed: true, ..Known::default() }
            }
        };
        Self { path: Some(path), looking: Mutex::default(), known: Mutex::new(known) }
    }

    /// Looks at files, containers and images again, and notes what is not as it was. May be given up at any moment: it
    /// then noted nothing.
    ///
    /// # Errors
    /// When the engine does not answer; files are looked at all the same.
    pub async fn look(&self, host: &Host) -> Result<(), EngineError> {
        let _one = self.looking.lock().await;
        let now = crate::host::clock::now().timestamp_millis();
        let engine = host.docker().containers(None).await;
        let (before, salt, looked, first) = {
            let mut known = self.known.lock().await;
            let first = known.since_ms == 0;
            if first {
                let mut salt = [0; 32];
                if getrandom::fill(&mut salt).is_err() {
                    // Without a secret of its own it would keep digests that can be guessed at.
                    return Ok(());
                }
                (known.salt, known.since_ms, known.version) = (HEXLOWER.encode(&salt), now, VERSION);
            }
            (known.clone_seen(), known.salt.clone(), known.looked_ms, first)
        };
        let mut noted = Vec::new();
        // An engine that does not answer has not lost its containers.
        let seen = match &engine {
            Ok(all) => {
                let present: BTreeMap<String, SeenContainer> = all
                    .iter()
                    .map(|found| {
                        let own = container(found);
                        let seen = SeenContainer {
                            id: own.id,
                            image: own.image,
                            image_id: found.image_id.clone().unwrap_or_default(),
                            stack: own.stack,
                            service: own.service,
                            created_ms: found.created.unwrap_or_default().saturating_mul(1000),
                        };
                        let seen = still_named(seen, before.containers.get(&own.name));
                        (own.name, seen)
                    })
                    .collect();
                noted.extend(containers(&before.containers, &present, now));
                let named = named_images(host.docker(), &present, &before.images).await;
                noted.extend(images(&before.images, &named, &present, looked, now));
                Some((present, named))
            }
            Err(_) => None,
        };
        let (places, before) = (places(host), before.files);
        let files = tokio::task::spawn_blocking(move || {
            let present = files(&places, &before, &salt);
            (compare(&before, &present, looked, now), present)
        })
        .await;
        let mut known = self.known.lock().await;
        if let Some((containers, images)) = seen {
            (known.containers, known.images) = (containers, images);
        }
        if let Ok((changed, present)) = files {
            noted.extend(changed);
            known.files = present;
        }
        known.looked_ms = now;
        if first {
            self.save(&known);
        } else if !noted.is_empty() {
            known.history.extend(noted);
            let excess = known.history.len().saturating_sub(HISTORY);
            known.history.drain(..excess);
            self.save(&known);
        }
        engine.map(drop)
    }

    /// The containers that were there at the last look, as changes of the time before anybody watched: each was created
    /// once.
    pub async fn created(&self) -> Vec<Change> {
        let known = self.known.lock().await;
        let created = known.containers.iter().map(|(name, seen)| Change {
            at_ms: seen.created_ms,
            kind: "deployment".to_owned(),
            what: name.clone(),
            says: format!("created from {}", seen.image),
            stack: seen.stack.clone(),
            service: seen.service.clone(),
            after: seen.image_id.clone(),
            ..Change::default()
        });
        created.collect()
    }

    /// What was noted since a moment, and since when this is watched.
    pub async fn since(&self, since_ms: i64) -> (Vec<Change>, i64) {
        let known = self.known.lock().await;
        let noted = known.history.iter().filter(|noted| noted.at_ms >= since_ms);
        (noted.map(Noted::told).collect(), known.since_ms)
    }

    /// Writes everything, whole or not at all. What cannot be written is found again by the next agent.
    fn save(&self, known: &Known) {
        let Some(path) = self.path.as_ref().filter(|_| !known.sealed) else { return };
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec(known)?;
            let fresh = path.with_extension("json.new");
            let mut file = fs::OpenOptions::new();
            let mut out = file.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            out.write_all(&text)?;
            out.sync_all()?;
            fs::rename(&fresh, path)
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "what changed cannot be remembered");
        }
    }
}

/// What a look compares with.
struct Before {
    files: BTreeMap<PathBuf, SeenFile>,
    containers: BTreeMap<String, SeenContainer>,
    images: BTreeMap<String, SeenImage>,
}

impl Known {
    fn clone_seen(&self) -> Before {
        Before { files: self.files.clone(), containers: self.containers.clone(), images: self.images.clone() }
    }
}

impl Noted {
    fn told(&self) -> Change {
        let own = self.clone();
        Change {
            at_ms: own.at_ms,
            kind: own.kind,
            what: own.what,
            says: own.says,
            stack: own.stack,
            service: own.service,
            person: String::new(),
            before: own.before,
            after: own.after,
            added: own.added,
            removed: own.removed,
            changed: own.changed,
        }
    }
}

fn containers(
    before: &BTreeMap<String, SeenContainer>,
    present: &BTreeMap<String, SeenContainer>,
    now: i64,
) -> Vec<Noted> {
    let noted = |name: &String, seen: &SeenContainer, at_ms: i64, says: String| Noted {
        at_ms,
        kind: "deployment".to_owned(),
        what: name.clone(),
        says,
        stack: seen.stack.clone(),
        service: seen.service.clone(),
        ..Noted::default()
    };
    let mut found = Vec::new();
    for (name, seen) in present {
        let at_ms = if seen.created_ms > 0 { seen.created_ms.min(now) } else { now };
        match before.get(name) {
            Some(then) if then.id == seen.id => {}
            Some(then) if then.image_id == seen.image_id => {
                found.push(noted(name, seen, at_ms, format!("recreated from the same image {}", seen.image)));
            }
            Some(then) => found.push(Noted {
                before: then.image_id.clone(),
                after: seen.image_id.clone(),
                ..noted(
                    name,
                    seen,
                    at_ms,
                    format!(
                        "deployed from another image: {} instead of {}",
                        named(&seen.image, &seen.image_id),
                        named(&then.image, &then.image_id)
                    ),
                )
            }),
            None => found.push(Noted {
                after: seen.image_id.clone(),
                ..noted(name, seen, at_ms, format!("created from {}", named(&seen.image, &seen.image_id)))
            }),
        }
    }
    let gone = before.iter().filter(|(name, _)| !present.contains_key(*name));
    found.extend(gone.map(|(name, seen)| noted(name, seen, now, "removed".to_owned())));
    found
}

/// A container whose image lost its name to another one is listed by the image's digest: it keeps the name that it was
/// made from.
fn still_named(seen: SeenContainer, before: Option<&SeenContainer>) -> SeenContainer {
    match before {
        Some(then) if then.id == seen.id && seen.image != then.image => {
            SeenContainer { image: then.image.clone(), ..seen }
        }
        _ => seen,
    }
}

/// What the names stand for that the stacks' containers were made from. One question to the engine for each, which reads
/// one small file for it.
async fn named_images(
    engine: &Engine,
    present: &BTreeMap<String, SeenContainer>,
    before: &BTreeMap<String, SeenImage>,
) -> BTreeMap<String, SeenImage> {
    let mut named = BTreeMap::new();
    for seen in present.values().filter(|seen| !seen.stack.is_empty() && !is_digest(&seen.image)) {
        if named.len() >= IMAGES || named.contains_key(&seen.image) {
            continue;
        }
        let image = SeenImage {
            id: String::new(),
            stack: seen.stack.clone(),
            service: seen.service.clone(),
            tagged_ms: 0,
        };
        match engine.image(&seen.image).await {
            Ok(found) => {
                let tagged = found.metadata.and_then(|metadata| metadata.last_tag_time);
                let tagged = tagged.and_then(|at| chrono::DateTime::parse_from_rfc3339(&at).ok());
                let image = SeenImage {
                    id: found.id.unwrap_or_default(),
                    tagged_ms: tagged.map_or(0, |at| at.timestamp_millis()),
                    ..image
                };
                named.insert(seen.image.clone(), image);
            }
            Err(EngineError::Unknown(_)) => _ = named.insert(seen.image.clone(), image),
            // What cannot be asked at this moment has not changed.
            Err(_) => {
                if let Some(then) = before.get(&seen.image) {
                    named.insert(seen.image.clone(), then.clone());
                }
            }
        }
    }
    named
}

/// Whether an image stands by its digest and not by a name.
fn is_digest(image: &str) -> bool {
    let digits = image.strip_prefix("sha256:").unwrap_or(image);
    image.is_empty() || (digits.len() >= 12 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Names that stand for other images than they did, where no container was made from the new one: a build, a pull or a
/// tag that the next deployment will bring. A deployment tells its image by itself.
fn images(
    before: &BTreeMap<String, SeenImage>,
    present: &BTreeMap<String, SeenImage>,
    containers: &BTreeMap<String, SeenContainer>,
    looked_ms: i64,
    now: i64,
) -> Vec<Noted> {
    let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
    let mut found = Vec::new();
    for (name, seen) in present {
        let Some(then) = before.get(name).filter(|then| then.id != seen.id) else { continue };
        let runs = |own: &SeenContainer| own.image == *name && own.image_id == seen.id;
        if containers.values().any(runs) {
            continue;
        }
        let says = match (then.id.as_str(), seen.id.as_str()) {
            (was, "") => format!("stands for no image any more (was {})", short(was)),
            ("", is) => format!("stands for {}, which is not deployed", short(is)),
            (was, is) => {
                format!("stands for {} (was {}), which is not deployed", short(is), short(was))
            }
        };
        found.push(Noted {
            at_ms: if (looked_ms..=now).contains(&seen.tagged_ms) { seen.tagged_ms } else { now },
            kind: "image".to_owned(),
            what: name.clone(),
            says,
            stack: seen.stack.clone(),
            service: seen.service.clone(),
            before: then.id.clone(),
            after: seen.id.clone(),
            ..Noted::default()
        });
    }
    found
}

/// `sylion-backend (3f2a90c1b4d5)`
fn named(image: &str, id: &str) -> String {
    let id = id.trim_start_matches("sha256:");
    format!("{image} ({})", id.get(..12).unwrap_or(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path, kind: Kind) -> BTreeMap<PathBuf, (Kind, String)> {
        BTreeMap::from([(path.to_owned(), (kind, "shop".to_owned()))])
    }

    #[test]
    fn variables_change_by_name_and_no_value_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        fs::write(&path, "A=hunter2\nB=\"two\nlines\"\n# C=no\nD=1\n").unwrap();
        let before = files(&at(&path, Kind::Env), &BTreeMap::new(), "salt");
        assert_eq!(before[&path].names.keys().collect::<Vec<_>>(), ["A", "B", "D"]);
        assert!(!serde_json::to_string(&before.values().collect::<Vec<_>>()).unwrap().contains("hunter2"));
        fs::write(&path, "A=hunter2\nB=\"two\nother lines\"\nE=5\n").unwrap();
        let present = files(&at(&path, Kind::Env), &before, "salt");
        let found = compare(&before, &present, 0, i64::MAX);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].says, "added E; removed D; changed B");
        assert_eq!((found[0].kind.as_str(), found[0].stack.as_str()), ("env", "shop"));
        fs::remove_file(&path).unwrap();
        let gone = files(&at(&path, Kind::Env), &present, "salt");
        assert_eq!(compare(&present, &gone, 0, 5)[0].says, "removed");
        assert!(compare(&present, &present, 0, 5).is_empty());
    }

    #[test]
    fn another_image_is_a_deployment() {
        let seen = |id: &str, image_id: &str| SeenContainer {
            id: id.to_owned(),
            image: "shop".to_owned(),
            image_id: format!("sha256:{image_id}"),
            stack: "shop".to_owned(),
            service: "web".to_owned(),
            created_ms: 7,
        };
        let one = |id: &str, image: &str| BTreeMap::from([("shop-web".to_owned(), seen(id, image))]);
        assert!(containers(&one("1", "a"), &one("1", "a"), 9).is_empty());
        assert_eq!(
            containers(&one("1", "a"), &one("2", "a"), 9)[0].says,
            "recreated from the same image shop"
        );
        let found = &containers(&one("1", "a"), &one("2", "b"), 9)[0];
        assert_eq!((found.before.as_str(), found.after.as_str(), found.at_ms), ("sha256:a", "sha256:b", 7));
        assert_eq!(containers(&one("1", "a"), &BTreeMap::new(), 9)[0].says, "removed");
    }

    #[test]
    fn a_name_that_stands_for_another_image_is_told_until_it_is_deployed() {
        let image = |id: &str, tagged_ms: i64| {
            let image = SeenImage {
                id: id.to_owned(),
                stack: "shop".to_owned(),
                service: "web".to_owned(),
                tagged_ms,
            };
            BTreeMap::from([("shop-web".to_owned(), image)])
        };
        let running = |image: &str, image_id: &str| SeenContainer {
            id: "1".to_owned(),
            image: image.to_owned(),
            image_id: image_id.to_owned(),
            stack: "shop".to_owned(),
            service: "web".to_owned(),
            created_ms: 1,
        };
        let own = |image_id: &str| BTreeMap::from([("shop-web-1".to_owned(), running("shop-web", image_id))]);
        let (old, new) = (image("sha256:0123456789abcdef", 5), image("sha256:fedcba9876543210", 70));
        // Another service runs it under its own name: that is no deployment of this one.
        let mut both = own("sha256:0123456789abcdef");
        both.insert("shop-job-1".to_owned(), running("shop-job", "sha256:fedcba9876543210"));
        assert_eq!(images(&old, &new, &both, 50, 90).len(), 1);
        assert!(images(&old, &old, &own("sha256:0123456789abcdef"), 50, 90).is_empty());
        let found = images(&old, &new, &own("sha256:0123456789abcdef"), 50, 90).remove(0);
        assert_eq!((found.kind.as_str(), found.what.as_str(), found.at_ms), ("image", "shop-web", 70));
        assert_eq!(found.says, "stands for fedcba987654 (was 0123456789ab), which is not deployed");
        assert_eq!((found.stack.as_str(), found.service.as_str()), ("shop", "web"));
        assert!(found.after.starts_with("sha256:fedc") && found.before.starts_with("sha256:0123"));
        // A deployment tells its image by itself, and what was never seen before has not changed.
        assert!(images(&old, &new, &own("sha256:fedcba9876543210"), 50, 90).is_empty());
        assert!(images(&BTreeMap::new(), &new, &own("sha256:0123456789abcdef"), 50, 90).is_empty());
        let gone = images(&old, &image("", 0), &own("sha256:0123456789abcdef"), 50, 90).remove(0);
        assert_eq!((gone.says.as_str(), gone.at_ms), ("stands for no image any more (was 0123456789ab)", 90));
        // The engine lists a container by the digest once its image lost the name.
        let listed = running("sha256:0123456789abcdef", "sha256:0123456789abcdef");
        assert!(is_digest(&listed.image) && is_digest("0123456789ab") && !is_digest("shop-web:1"));
        assert_eq!(still_named(listed, Some(&running("shop-web", ""))).image, "shop-web");
    }

    #[test]
    fn what_an_earlier_agent_wrote_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let earlier =
            r#"{"version":1,"since_ms":1,"looked_ms":1,"salt":"s","files":{},"containers":{},"history":[]}"#;
        fs::write(folder.path().join("changes.json"), earlier).unwrap();
        let known = Changes::open(folder.path()).known.into_inner();
        assert!(known.images.is_empty() && !known.sealed && known.since_ms == 1);
    }

    #[test]
    fn a_damaged_memory_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("changes.json"), "{").unwrap();
        let known = Changes::open(folder.path()).known.into_inner();
        assert!(known.history.is_empty() && !known.sealed);
        fs::write(
            folder.path().join("changes.json"),
            r#"{"version":9,"since_ms":1,"looked_ms":1,"salt":"","files":{},"containers":{},"history":[]}"#,
        )
        .unwrap();
        assert!(Changes::open(folder.path()).known.into_inner().sealed);
    }
}
