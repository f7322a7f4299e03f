//! An operator at the laptop: calls `vigiectl`, the whole program, and takes up again what was cut off.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex},
};

use data_encoding::HEXLOWER;
use vigie_controller::authority::Authority;
use vigie_proto::{id::RunId, order::SigningKey};
use vigie_transport::{
    credential::{Credential, certificates_to_pem, write_private},
    identity::Role,
};
use vigiectl::{Exit, Home, Interrupt, Surroundings, Terminal};

use crate::{
    network::Simulated,
    world::{ADDRESS, OPERATORS_PORT, World, lock, now_ms},
};

/// What an operator asks for. Whatever asks has its answer beforehand.
pub(crate) const WISHES: [&str; 6] = [
    "exec -H vps[1-5] -- true",
    "do compose-restart -H vps[1-5] --services backend --yes",
    "do postgres-terminate -H vps[1-5] --yes-destroy",
    "run stopped -H vps[1-5] --yes",
    "run stuck -H vps[1-5] --yes-destroy",
    "diagnose stopped",
];

/// Nobody tries it more often.
const PATIENCE: u32 = 40;

/// What the person remembers, whatever becomes of the program and of the laptop.
#[derive(Default)]
pub(crate) struct Notebook {
    /// What is still to be done, and when it is begun, in milliseconds after the one before.
    pub(crate) wishes: Vec<(&'static str, u64)>,
    /// What they are at.
    present: Option<&'static str>,
    /// The runs that an earlier wish was about.
    earlier: BTreeSet<RunId>,
    /// Each run and how `vigiectl` said that it ended.
    pub(crate) ended: Vec<(RunId, Exit)>,
    /// Nothing more is to be done.
    pub(crate) done: bool,
}

/// How a call went.
enum Went {
    /// It told how the run ended.
    Ended(Exit),
    /// It did not: the run may go on, and may not have been opened.
    Broken,
    /// The controller did not take the request.
    Refused,
}

/// Writes down what `vigiectl login` leaves behind.
pub(crate) fn log_in(root: &Path, authority: &Authority, person: &str, own: &Credential, key: &SigningKey) {
    let roots = certificates_to_pem(&authority.roots(Role::Controller));
    let settings = format!(
        "address = \"{ADDRESS}:{OPERATORS_PORT}\"\noperator = \"{person}\"\nidentity = \"{}\"\n\
         controller_pin = \"{}\"\ntrust_list_digest = \"{}\"\nroots = '''\n{roots}'''\n",
        own.identity().unwrap(),
        "00".repeat(32),
        "00".repeat(32),
    );
    let (contexts, state) = (root.join("config/contexts"), root.join("state/default"));
    for folder in [&contexts, &state] {
        std::fs::create_dir_all(folder).unwrap();
    }
    write_private(&contexts.join("default.toml"), settings.as_bytes()).unwrap();
    own.save(&state.join("credential.pem")).unwrap();
    write_private(&state.join("order.key"), HEXLOWER.encode(&key.seed()[..]).as_bytes()).unwrap();
}

/// Does what is in the notebook, until the laptop goes or all is done.
pub(crate) async fn live(world: Arc<World>) -> turmoil::Result {
    loop {
        let next = {
            let mut notebook = lock(&world.notebook);
            match notebook.present {
                Some(present) => Some((present, 0)),
                None => notebook.wishes.pop().inspect(|(wish, _)| notebook.present = Some(wish)),
            }
        };
        let Some((wish, after_ms)) = next else { break };
        tokio::time::sleep(std::time::Duration::from_millis(after_ms)).await;
        see_through(&world, wish).await;
    }
    lock(&world.notebook).done = true;
    world.note("the operator has nothing more to do");
    std::future::pending().await
}

async fn see_through(world: &Arc<World>, wish: &'static str) {
    for _ in 0..PATIENCE {
        let opened = opened(world);
        let line = match opened {
            Some(run) => {
                let loses = if wish.ends_with("--yes-destroy") { "--yes-destroy" } else { "--yes" };
                format!("runs resume {run} {loses}")
            }
            None => wish.to_owned(),
        };
        let told = opened.map_or(line.clone(), |run| format!("resume {}", world.name("r", &run.to_string())));
        world.note(format_args!("vigiectl {told}"));
        let went = call(world, &line).await;
        let run = self::opened(world);
        match (went, run) {
            (Went::Ended(exit), Some(run)) => {
                let name = world.name("r", &run.to_string());
                world.note(format_args!("vigiectl says of {name}: {exit:?}"));
                let mut notebook = lock(&world.notebook);
                notebook.ended.push((run, exit));
                notebook.earlier.insert(run);
                notebook.present = None;
                return;
            }
            (Went::Ended(exit), None) => {
                world.violated(format_args!("vigiectl ends with {exit:?}, and knows no run"));
                break;
            }
            (Went::Refused, None) => break,
            (Went::Broken | Went::Refused, _) => world.pause(500..8_000).await,
        }
    }
    let run = opened(world);
    let mut notebook = lock(&world.notebook);
    notebook.earlier.extend(run);
    notebook.present = None;
}

/// The run that the present wish was opened as, as far as the laptop's disk has it.
fn opened(world: &World) -> Option<RunId> {
    let folder = world.laptop.path().join("state/default/runs");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let earlier = &lock(&world.notebook).earlier;
    let mut runs = names.filter_map(|name| name.strip_suffix(".pb")?.parse::<RunId>().ok());
    runs.find(|run| !earlier.contains(run))
}

async fn call(world: &Arc<World>, line: &str) -> Went {
    let said = Said::default();
    let (_trigger, interrupt) = Interrupt::new();
    let surroundings = Surroundings {
        stdin: Box::new(tokio::io::empty()),
        stdout: Box::new(io::sink()),
        stderr: Box::new(said.clone()),
        terminal: Terminal::NONE,
        home: Home::under(world.laptop.path()),
        user: crate::seed::PERSON.to_owned(),
        interrupt,
        network: Arc::new(Simulated(Arc::clone(world))),
        clock: now_ms,
    };
    let words = std::iter::once("vigiectl").chain(line.split_whitespace());
    let exit = vigiectl::run(words, surroundings).await;
    let said = String::from_utf8_lossy(&lock(&said.0)).into_owned();
    // An error is told in a line; whatever ends without one has told how the run ended.
    let Some(error) = said.lines().find_map(|line| line.strip_prefix("error: ")) else {
        return Went::Ended(exit);
    };
    // Without what differs each time: ids and times.
    let words: Vec<_> = error.split_whitespace().filter(|word| !word.contains(char::is_numeric)).collect();
    world.note(format_args!("vigiectl: {exit:?}: {}", words.join(" ")));
    if exit == Exit::NoController { Went::Broken } else { Went::Refused }
}

/// What was said on stderr.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
