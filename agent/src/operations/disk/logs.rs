//! Containers' log files, read from the engine's own folder: a full disk is when the engine does not answer.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    time::Duration,
};

use serde::Deserialize;
use vigie_proto::v1::{
    ContainerLog, ContainerLogTruncatePreviewRequest, ContainerLogTruncatePreviewResult,
    ContainerLogTruncateRequest, ContainerLogTruncateResult, LeftAlone, result,
};

use super::{Context, Fault, MIB, walk::allocated};
use crate::host::docker::label;

/// The seed of the runbook empties logs over 100 MB.
pub(super) const OVER_MIB: u32 = 100;

/// How a rotated log ends that the engine has compressed.
const COMPRESSED: &str = ".gz";

/// Reading the folders of some hundred containers takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What of a container's configuration is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    log_path: String,
    #[serde(default)]
    config: SavedConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct SavedConfig {
    labels: Option<HashMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct SavedHost {
    log_config: SavedLogging,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct SavedLogging {
    config: Option<HashMap<String, String>>,
}

/// A container's name, stack and service, as its folder tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub name: String,
    pub stack: String,
    pub service: String,
}

/// The containers by id.
pub(super) fn owners(root: &Path) -> HashMap<String, Owner> {
    let folders = fs::read_dir(root.join("containers")).into_iter().flatten().flatten();
    folders.filter_map(|entry| saved(&entry.path())).map(|saved| (saved.id.clone(), owner(&saved))).collect()
}

fn saved(folder: &Path) -> Option<Saved> {
    let text = fs::read(folder.join("config.v2.json")).ok()?;
    let saved: Saved = serde_json::from_slice(&text).ok()?;
    // What does not say of itself that it is the container of this folder is none.
    (folder.file_name()?.to_str()? == saved.id).then_some(saved)
}

fn owner(saved: &Saved) -> Owner {
    let labelled =
        |name| saved.config.labels.as_ref().and_then(|all| all.get(name)).cloned().unwrap_or_default();
    Owner {
        name: saved.name.trim_start_matches('/').to_owned(),
        stack: labelled(label::PROJECT),
        service: labelled(label::SERVICE),
    }
}

/// Every log file of every container that the engine knows, largest first.
pub(super) fn all(root: &Path) -> Vec<ContainerLog> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(root.join("containers")).into_iter().flatten().flatten() {
        let folder = entry.path();
        let Some(saved) = saved(&folder) else { continue };
        let own = owner(&saved);
        let host: SavedHost = fs::read(folder.join("hostconfig.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let rotated = host.log_config.config.is_some_and(|config| config.contains_key("max-size"));
        // The current file, and those that rotation left. Another driver's files are its own.
        let current = format!("{}-json.log", saved.id);
        if !saved.log_path.is_empty()
            && Path::new(&saved.log_path).file_name().is_none_or(|name| *name != *current)
        {
            continue;
        }
        for file in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = file.file_name();
            let Some(name) = name.to_str() else { continue };
            let Some(rest) = name.strip_prefix(&current) else { continue };
            let number = rest.strip_suffix(COMPRESSED).unwrap_or(rest);
            let number = number.strip_prefix('.').unwrap_or(number);
            if !number.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let Ok(meta) = file.metadata() else { continue };
            if !meta.is_file() {
                continue;
            }
            logs.push(ContainerLog {
                container: own.name.clone(),
                container_id: saved.id.clone(),
                stack: own.stack.clone(),
                service: own.service.clone(),
                path: file.path().to_string_lossy().into_owned(),
                inode: meta.ino(),
                bytes: allocated(&meta),
                rotated,
            });
        }
    }
    logs.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    logs
}

/// Whether rotation has compressed a log: the engine could not read it any more if it were emptied.
pub(super) fn is_compressed(log: &ContainerLog) -> bool {
    log.path.ends_with(COMPRESSED)
}

async fn chosen(over_mib: u32, container: &str, cx: &Context) -> Result<Vec<ContainerLog>, Fault> {
    let root = cx.host.docker().root();
    let place = root.join("containers");
    let mut logs =
        cx.host.mounts().ask(place.clone(), PATIENCE, move || all(&root)).await.ok_or_else(|| {
            Fault::failed("timed_out", format!("{} does not answer", place.display()))
                .hint("its filesystem hangs: `vigiectl probe disk_usage`")
        })?;
    let over = u64::from(if over_mib == 0 { OVER_MIB } else { over_mib }) * MIB;
    logs.retain(|log| {
        log.bytes >= over
            && !is_compressed(log)
            && (container.is_empty() || log.container == container || log.container_id == container)
    });
    Ok(logs)
}

/// Tells which logs would be emptied.
pub(in crate::operations) async fn preview(
    request: ContainerLogTruncatePreviewRequest,
    cx: &Context,
) -> Result<ContainerLogTruncatePreviewResult, Fault> {
    let logs = chosen(request.over_mib, &request.container, cx).await?;
    Ok(ContainerLogTruncatePreviewResult { bytes: logs.iter().map(|log| log.bytes).sum(), logs })
}

/// Empties those of the prepared logs that are still the same files.
pub(in crate::operations) async fn truncate(
    request: ContainerLogTruncateRequest,
    cx: &Context,
) -> Result<ContainerLogTruncateResult, Fault> {
    let Some(result::Operation::ContainerLogTruncatePreview(prepared)) = &cx.prepared else {
        return Err(super::prune::not_prepared());
    };
    let present = chosen(request.over_mib, &request.container, cx).await?;
    let mut done = ContainerLogTruncateResult::default();
    for log in &prepared.logs {
        let same = present.iter().find(|own| own.path == log.path && own.inode == log.inode);
        let emptied = match same {
            None => Err("it is another file by now, or no longer that large".to_owned()),
            Some(own) => empty(own).map_err(|error| error.to_string()),
        };
        match emptied {
            Ok(freed) => {
                done.freed_bytes += freed;
                done.truncated.push(log.clone());
            }
            Err(reason) => done.left.push(LeftAlone { name: log.path.clone(), reason }),
        }
    }
    if done.truncated.is_empty() && !done.left.is_empty() {
        let message = format!("none of {} logs was emptied: {}", done.left.len(), done.left[0].reason);
        return Err(Fault::failed("nothing_freed", message)
            .hint("look again: `vigiectl probe container_log_truncate_preview`")
            .partial(result::Operation::ContainerLogTruncate(done)));
    }
    Ok(done)
}

/// Empties one file in place, and tells what it took. The engine appends: it goes on at the file's new beginning.
fn empty(log: &ContainerLog) -> std::io::Result<u64> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(std::io::Error::other)?;
    let file = fs::OpenOptions::new().write(true).custom_flags(flags).open(&log.path)?;
    let before = file.metadata()?;
    if !before.is_file() || before.ino() != log.inode {
        return Err(std::io::Error::other("it is another file by now"));
    }
    file.set_len(0)?;
    Ok(allocated(&before).saturating_sub(allocated(&file.metadata()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container's folder as Docker 20.10 writes it, cut to what is read.
    fn folder(root: &Path, id: &str, log: usize) -> std::path::PathBuf {
        let folder = root.join("containers").join(id);
        fs::create_dir_all(&folder).unwrap();
        let config = format!(
            r#"{{"ID":"{id}","Name":"/sylion-backend","LogPath":"{}/{id}-json.log","Config":{{"Labels":{{"com.docker.compose.project":"sylion","com.docker.compose.service":"backend"}}}}}}"#,
            folder.display()
        );
        fs::write(folder.join("config.v2.json"), config).unwrap();
        fs::write(folder.join("hostconfig.json"), r#"{"LogConfig":{"Type":"json-file","Config":{}}}"#)
            .unwrap();
        fs::write(folder.join(format!("{id}-json.log")), vec![b'x'; log]).unwrap();
        folder
    }

    #[test]
    fn only_known_containers_own_logs_are_seen() {
        let root = tempfile::tempdir().unwrap();
        let one = folder(root.path(), "aa11", 100_000);
        fs::write(one.join("aa11-json.log.1"), vec![b'x'; 200_000]).unwrap();
        fs::write(one.join("aa11-json.log.3.gz"), vec![b'x'; 50_000]).unwrap();
        fs::write(one.join("aa11-json.log.bak"), "kept").unwrap();
        fs::write(one.join("aa11-json.log.x.gz"), "kept").unwrap();
        // A folder whose configuration names another container, one without any, and a link.
        folder(root.path(), "bb22", 100_000);
        fs::rename(root.path().join("containers/bb22"), root.path().join("containers/cc33")).unwrap();
        fs::create_dir_all(root.path().join("containers/dd44")).unwrap();
        fs::write(root.path().join("containers/dd44/dd44-json.log"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", one.join("aa11-json.log.2")).unwrap();
        assert_eq!(all(root.path()).iter().filter(|log| is_compressed(log)).count(), 1);
        let names: Vec<_> = all(root.path())
            .into_iter()
            .map(|log| (log.path.rsplit('/').next().unwrap().to_owned(), log.stack, log.rotated))
            .collect();
        let own = |name: &str| (name.to_owned(), "sylion".to_owned(), false);
        assert_eq!(names, [own("aa11-json.log.1"), own("aa11-json.log"), own("aa11-json.log.3.gz")]);
    }

    #[test]
    fn a_file_that_was_replaced_is_left() {
        use std::io::Write as _;
        let root = tempfile::tempdir().unwrap();
        let path = folder(root.path(), "aa11", 100_000).join("aa11-json.log");
        let log = all(root.path()).remove(0);
        // Whoever writes appends, as the engine does.
        let mut writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert!(empty(&log).unwrap() >= 98_304);
        writer.write_all(b"next\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"next\n");
        fs::remove_file(&path).unwrap();
        // The old inode is still held, so that the new file has another.
        fs::write(&path, "another").unwrap();
        assert!(empty(&log).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"another");
    }
}
