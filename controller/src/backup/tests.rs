use std::{net::IpAddr, os::unix::fs::PermissionsExt as _};

use vigie_proto::{
    id::{HostId, RunId},
    v1::{
        HostFactsRequest, Opened, Owned, Request, RunEvent, RunSpec, Target, request::Operation,
        run_event::Event, run_spec::Kind,
    },
};
use vigie_runbook::run::State;

use super::*;
use crate::{
    audit::{Audit, Intent},
    config::alone,
    init::{Init, init},
    store::{OpenedRun, Store},
};

const WORD: &str = "correct horse battery";

struct World {
    folder: tempfile::TempDir,
    config: Config,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wanted = Init {
            state: folder.path().join("state"),
            address: "localhost".to_owned(),
            domain: "fleet.test".to_owned(),
            bind: IpAddr::from([127, 0, 0, 1]),
            operators_port: 0,
            agents_port: 0,
            enrolment_port: 0,
        };
        let config = init(wanted).await.unwrap().config;
        fs::write(config.runbooks().join("ours.yaml"), "id: ours").unwrap();
        Self { folder, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn backed_up(&self) -> PathBuf {
        let file = self.path("backup");
        backup(&self.config, &file, WORD).await.unwrap();
        file
    }

    /// What lies in the folder beside what is expected there.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A run that waits for its host, under this epoch.
async fn open_run(config: &Config, epoch: u64) -> RunId {
    let store = Sqlite::open(&config.database()).await.unwrap();
    let run = RunId::new();
    let request = Request { operation: Some(Operation::HostFacts(HostFactsRequest::default())) };
    let spec = RunSpec { kind: Some(Kind::Operation(request)), ..Default::default() };
    let target =
        Target { host: HostId::new().to_string(), host_name: "vps1".to_owned(), ..Default::default() };
    let opened = Opened { spec: Some(spec), targets: vec![target], ..Default::default() };
    let owned = Owned { epoch, controller: "one".to_owned() };
    let events: Vec<_> = (1..)
        .zip([Event::Opened(opened), Event::Owned(owned)])
        .map(|(seq, event)| RunEvent { seq, at_ms: 1, event: Some(event) })
        .collect();
    let summary = State::fold(run, &events).unwrap().summary();
    let opened = store.open_run(&Intent::own("test", "", ""), run, &events, &summary).await.unwrap();
    assert!(matches!(opened, OpenedRun::New(_)));
    store.close().await;
    run
}

#[tokio::test]
async fn a_state_comes_back_whole_and_ready_for_a_world_that_went_on() {
    let world = World::new().await;
    let run = open_run(&world.config, 7).await;
    let file = world.backed_up().await;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let sealed = fs::read(&file).unwrap();
    assert!(!sealed.windows(11).any(|bytes| bytes == b"PRIVATE KEY" || bytes == b"SQLite form"));
    let error = backup(&world.config, &file, WORD).await.unwrap_err();
    assert!(matches!(error, BackupError::Exists(_)), "{error}");

    let state = world.path("restored");
    let restored = restore(&file, &state, WORD, false).await.unwrap();
    assert_eq!((restored.runs, restored.tokens, restored.before), (1, 1, None));
    assert_eq!(restored.config.settings, world.config.settings);
    for entry in restored.list.files.iter().filter(|entry| entry.path != Path::new(DATABASE)) {
        let path = state.join(&entry.path);
        assert_eq!(fs::read(&path).unwrap(), fs::read(world.config.state.join(&entry.path)).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(restored.list.files.iter().any(|entry| entry.path == Path::new("runbooks/ours.yaml")));
    let store = std::sync::Arc::new(Sqlite::open(&restored.config.database()).await.unwrap());
    let events = store.events(run, 0, 100).await.unwrap();
    let epoch = State::fold(run, &events).unwrap().epoch();
    assert!(epoch > 1_000_000_000, "above whatever came to be after the backup: {epoch}");
    Audit::new(store.clone()).verify().await.unwrap().unwrap();
    let last = store.audit(0, 100).await.unwrap().pop().unwrap();
    assert_eq!(last.line.action, "restore");
    assert!(last.line.detail.contains("tokens made void: 1"), "{}", last.line.detail);
    // And again, of the same backup: nobody can have seen this one either.
    drop(store);
    let again = restore(&file, &world.path("again"), WORD, false).await.unwrap();
    let store = Sqlite::open(&again.config.database()).await.unwrap();
    let events = store.events(run, 0, 100).await.unwrap();
    assert!(State::fold(run, &events).unwrap().epoch() >= epoch);
    assert_eq!(world.names(), ["again", "backup", "restored", "state"]);
}

#[tokio::test]
async fn what_is_not_whole_touches_nothing() {
    let world = World::new().await;
    let file = world.backed_up().await;
    let state = world.path("restored");
    let sealed = fs::read(&file).unwrap();
    let error = restore(&file, &state, "another passphrase", false).await.unwrap_err();
    assert!(matches!(error, BackupError::Seal(SealError::Passphrase)), "{error}");
    for length in [0, 60, sealed.len() - 1] {
        let cut = world.path("cut");
        fs::write(&cut, &sealed[..length]).unwrap();
        let error = restore(&cut, &state, WORD, false).await.unwrap_err();
        assert!(matches!(error, BackupError::Seal(_)), "{length}: {error}");
    }
    let mut damaged = sealed.clone();
    damaged[sealed.len() / 2] ^= 1;
    fs::write(world.path("cut"), damaged).unwrap();
    let error = restore(&world.path("cut"), &state, WORD, false).await.unwrap_err();
    assert!(matches!(error, BackupError::Seal(SealError::Damaged { .. })), "{error}");
    assert_eq!(world.names(), ["backup", "cut", "state"]);
    let short = backup(&world.config, &world.path("other"), "short").await.unwrap_err();
    assert!(matches!(short, BackupError::Seal(SealError::Short)), "{short}");
    assert_eq!(world.names(), ["backup", "cut", "state"]);
}

#[tokio::test]
async fn a_state_that_is_there_is_replaced_only_when_told_and_is_kept() {
    let world = World::new().await;
    let file = world.backed_up().await;
    let state = &world.config.state;
    fs::write(state.join("mark"), "of the old one").unwrap();
    let error = restore(&file, state, WORD, false).await.unwrap_err();
    assert!(matches!(error, BackupError::State(_)), "{error}");
    let serving = alone(state).unwrap();
    let error = restore(&file, state, WORD, true).await.unwrap_err();
    assert!(matches!(error, BackupError::Config(ConfigError::InUse(_))), "{error}");
    assert!(state.join("mark").exists());
    drop(serving);
    let restored = restore(&file, state, WORD, true).await.unwrap();
    assert!(!state.join("mark").exists());
    assert_eq!(fs::read_to_string(restored.before.unwrap().join("mark")).unwrap(), "of the old one");
    let other = world.path("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("somebody's"), "").unwrap();
    let error = restore(&file, &other, WORD, true).await.unwrap_err();
    assert!(matches!(error, BackupError::NotEmpty(_)), "{error}");
}
