use super::*;

fn open(state: &Path, settings: BTreeMap<String, StackSettings>) -> Stacks {
    Stacks::open(state, Engine::new(state.join("no-engine.sock")), settings)
}

fn settings(directory: &Path) -> StackSettings {
    StackSettings {
        directory: Some(directory.to_owned()),
        config_files: vec!["compose.yml".into()],
        env_files: vec![".env.prod".into()],
        compose_env: Some(BTreeMap::from([("ENV_FILE".to_owned(), ".env.prod".to_owned())])),
        backend_address: Some("127.0.0.1:8000".to_owned()),
        server_name: Some("shop.example".to_owned()),
        ..StackSettings::default()
    }
}

#[tokio::test]
async fn a_stack_that_settings_name_is_known_and_remembered() {
    let (state, project) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stacks = open(state.path(), BTreeMap::from([("shop".to_owned(), settings(project.path()))]));
    stacks.refresh().await;
    let found = stacks.resolve("").await.unwrap();
    assert_eq!(found.name, "shop");
    assert_eq!(found.config_files, [project.path().join("compose.yml")]);
    assert!(found.compose_env_established);
    assert_eq!(stacks.docker_error(), "", "a host without Docker has no error");
    // Another agent, whose settings say nothing.
    let later = open(state.path(), BTreeMap::new());
    later.refresh().await;
    assert_eq!(later.snapshot(), stacks.snapshot());
}

#[tokio::test]
async fn a_stack_whose_settings_name_its_database_alone_is_one() {
    let state = tempfile::tempdir().unwrap();
    let settings: StackSettings =
        toml::from_str("database_url = \"postgresql://shop:x@10.0.0.5/shop\"").unwrap();
    let stacks = open(state.path(), BTreeMap::from([("shop".to_owned(), settings)]));
    stacks.refresh().await;
    let found = stacks.resolve("").await.unwrap();
    assert_eq!((found.name.as_str(), found.is_project()), ("shop", false));
    // No file of the agent's own folder, or of the root, is taken for its.
    assert_eq!(found.effective_env_files(), [Path::new("/nonexistent/.env")]);
    assert!(stacks.complete().is_err_and(|why| !why.contains("consists of")), "it owns nothing here");
}

#[tokio::test]
async fn an_ambiguous_or_unknown_name_is_refused_with_the_names() {
    let (state, project) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let none = open(state.path(), BTreeMap::new());
    assert_eq!(none.resolve("").await.unwrap_err().failure.code, "stack_absent");
    let two = ["shop", "staging"].map(|name| (name.to_owned(), settings(project.path())));
    let stacks = open(state.path(), BTreeMap::from(two));
    stacks.refresh().await;
    let ambiguous = stacks.resolve("").await.unwrap_err().failure;
    assert_eq!(ambiguous.code, "stack_ambiguous");
    assert!(ambiguous.hint.contains("shop, staging"), "{ambiguous:?}");
    let unknown = stacks.resolve("prod").await.unwrap_err().failure;
    assert_eq!(unknown.code, "stack_unknown");
    assert!(unknown.hint.contains("shop, staging"), "{unknown:?}");
}

#[tokio::test]
async fn nothing_is_missing_while_nobody_can_tell() {
    let (state, project) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(project.path().join("compose.yml"), "services:\n  backend:\n    image: x\n").unwrap();
    let memory = Memory::open(state.path()).0;
    let stack = KnownStack {
        name: "shop".to_owned(),
        directory: project.path().to_owned(),
        services: BTreeMap::from([("backend".to_owned(), KnownService::default())]),
        ..KnownStack::default()
    };
    memory.save(&BTreeMap::from([("shop".to_owned(), stack)])).unwrap();
    // A socket that refuses: the engine is there and does not answer.
    drop(std::os::unix::net::UnixListener::bind(state.path().join("no-engine.sock")).unwrap());
    let stacks = open(state.path(), BTreeMap::new());
    stacks.refresh().await;
    assert_ne!(stacks.docker_error(), "");
    let services = &stacks.snapshot()[0].services;
    assert_eq!((services[0].service.as_str(), services[0].state.as_str()), ("backend", "unknown"));
}

#[tokio::test]
async fn only_a_stack_of_which_nothing_is_left_is_forgotten() {
    let (state, project) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // A socket that refuses: whether a volume is there cannot be had.
    drop(std::os::unix::net::UnixListener::bind(state.path().join("no-engine.sock")).unwrap());
    let stacks = open(state.path(), BTreeMap::from([("settled".to_owned(), StackSettings::default())]));
    let gone = project.path().join("gone");
    let stack = |name: &str, directory: &Path, volumes: &[&str]| KnownStack {
        name: name.to_owned(),
        directory: directory.to_owned(),
        config_files: vec![directory.join("compose.yml")],
        volumes: volumes.iter().map(|volume| (*volume).to_owned()).collect(),
        ..KnownStack::default()
    };
    let mut known: BTreeMap<String, KnownStack> = [
        stack("gone", &gone, &[]),
        stack("settled", &gone, &[]),
        stack("with-data", &gone, &["data"]),
        stack("with-files", project.path(), &[]),
        // Its containers say that it is there, wherever it lives.
        stack("opstest", &gone, &[]),
    ]
    .map(|stack| (stack.name.clone(), stack))
    .into();
    stacks.forget_what_is_gone(&mut known, &summaries(" (healthy)", 0)).await;
    assert_eq!(known.keys().collect::<Vec<_>>(), ["opstest", "settled", "with-data", "with-files"]);
}

fn summaries(health: &str, created: i64) -> Vec<ContainerSummary> {
    let mut all: Vec<ContainerSummary> =
        serde_json::from_str(include_str!("fixtures/containers.json")).unwrap();
    all.retain(|summary| container(summary).stack == "opstest");
    for summary in &mut all {
        summary.status = Some(format!("Up 3 minutes{health}"));
        summary.created = Some(created);
    }
    all
}

#[test]
fn a_name_that_vanished_is_forgotten_only_when_the_stack_is_well_without_it() {
    let project = tempfile::tempdir().unwrap();
    let file = project.path().join(".env");
    std::fs::write(&file, "KEPT=1\n").unwrap();
    let mut stack = KnownStack {
        name: "opstest".to_owned(),
        directory: project.path().to_owned(),
        services: BTreeMap::from(["backend", "redis"].map(|name| (name.to_owned(), KnownService::default()))),
        env_names: BTreeMap::from([(file.clone(), BTreeSet::from(["GONE".to_owned()]))]),
        ..KnownStack::default()
    };
    let both = BTreeSet::from(["GONE".to_owned(), "KEPT".to_owned()]);
    let future = now_ms() / 1000 + 60;
    for (health, created) in [(" (unhealthy)", future), (" (healthy)", 0), ("", future)] {
        remember_env_names(&mut stack, &summaries(health, created));
        assert_eq!(stack.env_names[&file], both, "{health} {created}");
    }
    remember_env_names(&mut stack, &summaries(" (healthy)", future)[..1]);
    assert_eq!(stack.env_names[&file], both, "a service is missing");
    // What is not the backend need not be made anew.
    let mut newer = summaries(" (healthy)", 0);
    let backend = newer.iter_mut().find(|summary| container(summary).service == "backend").unwrap();
    backend.created = Some(future);
    stack.backend_service = "redis".to_owned();
    remember_env_names(&mut stack, &newer);
    assert_eq!(stack.env_names[&file], both, "the backend has not seen the file");
    stack.backend_service = "backend".to_owned();
    let mut known_backend = stack.clone();
    remember_env_names(&mut known_backend, &newer);
    assert_eq!(known_backend.env_names[&file], BTreeSet::from(["KEPT".to_owned()]));
    stack.backend_service.clear();
    remember_env_names(&mut stack, &summaries(" (healthy)", future));
    assert_eq!(stack.env_names[&file], BTreeSet::from(["KEPT".to_owned()]));
}

#[test]
fn services_that_the_files_no_longer_declare() {
    let project = tempfile::tempdir().unwrap();
    let file = project.path().join("compose.yml");
    std::fs::write(&file, "services:\n  a: {profiles: [x], image: y}\n  b: {image: z}\n").unwrap();
    assert_eq!(
        declared_services(std::slice::from_ref(&file)),
        Some(BTreeSet::from(["a".to_owned(), "b".to_owned()]))
    );
    std::fs::write(&file, "include: [other.yml]\nservices: {}\n").unwrap();
    assert_eq!(declared_services(std::slice::from_ref(&file)), None);
}

#[test]
fn an_inventory_names_what_is_missing() {
    let stack = KnownStack {
        name: "opstest".to_owned(),
        services: BTreeMap::from(
            ["backend", "redis", "worker"].map(|name| (name.to_owned(), KnownService::default())),
        ),
        ..KnownStack::default()
    };
    let present: Vec<Container> = summaries("", 0).iter().map(container).collect();
    let (all, missing) = stack.inventory(&present);
    assert_eq!(missing, ["worker"]);
    assert_eq!(
        all.iter().map(|own| own.state.as_str()).collect::<Vec<_>>(),
        ["running", "running", "missing"]
    );
}

#[tokio::test]
async fn secrets_are_not_known_before_the_stacks_are() {
    let (state, project) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stacks = open(state.path(), BTreeMap::from([("shop".to_owned(), settings(project.path()))]));
    assert!(matches!(stacks.secret_places(), Err(RedactionError::NotLooked)));
    let file = project.path().join("compose.yml");
    // A file that is broken before it was ever understood may name anything.
    std::fs::write(&file, "services: [").unwrap();
    stacks.refresh().await;
    assert!(matches!(stacks.secret_places(), Err(RedactionError::Unread { .. })));
    std::fs::write(&file, "services:\n  a: {image: x, env_file: a.env}\n").unwrap();
    stacks.refresh().await;
    let named = project.path().join("a.env");
    assert!(stacks.secret_places().unwrap().0.contains(&named));
    std::fs::write(&file, "services: [").unwrap();
    stacks.refresh().await;
    assert!(stacks.secret_places().unwrap().0.contains(&named), "what it named before still holds");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    stacks.refresh().await;
    assert!(matches!(stacks.secret_places(), Err(RedactionError::Unread { .. })));
}

#[tokio::test]
async fn an_engine_that_never_answered_hides_what_there_is() {
    let state = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(state.path().join("no-engine.sock")).unwrap());
    let stacks = open(state.path(), BTreeMap::new());
    stacks.refresh().await;
    assert!(matches!(stacks.secret_places(), Err(RedactionError::NotLooked)));
}
