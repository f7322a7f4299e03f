//! A stack's Redis: where it is, with which password the stack speaks to it, and what it says to whoever knocks.
//!
//! What keeps the stack from using it is told apart before any client library is asked: the first exchange is one inline
//! `PING` on a connection of its own, whose answer names the trouble in Redis's own words. Every step has its own short
//! limit, since a Redis that hangs takes connections as long as its kernel does.

mod address;
mod dial;
mod named;
mod place;

use std::time::Duration;

use ::redis::{
    Cmd, ErrorKind, RedisError, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cmd,
};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::operations::Fault;
use dial::{Driver, Greeting, connect, first_line, hello, trouble_of};
pub use place::{DataFolder, Place, locate};

/// On one machine, a connection takes well under a millisecond; over a network, a few.
const CONNECT: Duration = Duration::from_millis(1500);
/// A healthy Redis answers within a millisecond, one that forks or swaps within some hundreds.
const ANSWER: Duration = Duration::from_millis(2000);
/// An error of Redis is one short line.
const LINE: u64 = 1024;

/// A password that may be the right one, and where it comes from.
pub struct Credential {
    /// settings, env_url, env_password, container, backend.
    pub source: &'static str,
    /// The variable or argument that holds it.
    pub name: String,
    /// The file or container.
    pub place: String,
    username: Option<String>,
    /// `None` where the place holds none.
    password: Option<Zeroizing<String>>,
    pub outcome: &'static str,
}

/// Why Redis does not serve the stack: a state of `redis_status`, and its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub state: &'static str,
    pub said: String,
}

impl Trouble {
    fn new(state: &'static str, said: impl Into<String>) -> Self {
        Self { state, said: said.into() }
    }

    /// The fault of an operation that cannot do without Redis.
    pub fn fault(&self, place: &Place) -> Fault {
        let name = if place.container_name.is_empty() { "Redis" } else { &place.container_name };
        let (code, words) = match self.state {
            "absent" => ("redis_absent", "the stack has no Redis".to_owned()),
            "wrong_password" => ("redis_wrong_password", format!("{name} refuses the stack's password")),
            "password_unknown" => {
                ("redis_password_unknown", format!("{name} wants a password and the stack sets none"))
            }
            "tls" => ("redis_tls", format!("{name} is not believed in TLS")),
            state => ("redis_unavailable", format!("{name} cannot be asked: {}", state.replace('_', " "))),
        };
        let said = if self.said.is_empty() { String::new() } else { format!(" ({})", self.said) };
        let message = format!("{words}{said}");
        let absent = self.state == "absent";
        if absent { Fault::absent("redis", message) } else { Fault::failed(code, message) }
            .hint("`vigiectl diagnose redis-down` tells why; for a Redis elsewhere set `redis_url` in /etc/vigie/agent.toml")
    }
}

/// A connection that Redis has let in.
pub struct Session {
    connection: MultiplexedConnection,
    _driver: Driver,
    /// Whether it asked for a password.
    pub password_required: bool,
}

/// What became of the attempt to speak to Redis.
pub struct Knock {
    /// There even with a trouble, when Redis lets in but does not serve (loading, a broken master link), or when it
    /// refuses what the stack's files say and takes what it was made with.
    pub session: Option<Session>,
    pub trouble: Option<Trouble>,
    pub password_required: bool,
}

impl Session {
    /// One command. Redis's own error is an answer; a connection that broke is a trouble.
    ///
    /// # Errors
    /// Redis's refusal, or why it did not answer.
    pub async fn ask(&mut self, command: &Cmd) -> Result<Value, Trouble> {
        match timeout(ANSWER * 2, self.connection.req_packed_command(command)).await {
            Ok(Ok(Value::ServerError(error))) => Err(said(&RedisError::from(error))),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(said(&error)),
            Err(_) => Err(Trouble::new("hung", "it did not answer in time")),
        }
    }

    /// Many commands at once, answered in their order; one that Redis refuses is `Nil`.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn ask_all(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Trouble> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = ::redis::Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        let asked = self.connection.req_packed_commands(&pipeline, 0, commands.len());
        let values = match timeout(ANSWER * 2, asked).await {
            Ok(Ok(values)) => values,
            Ok(Err(error)) => return Err(said(&error)),
            Err(_) => return Err(Trouble::new("hung", "it did not answer in time")),
        };
        Ok(values
            .into_iter()
            .map(|value| if matches!(value, Value::ServerError(_)) { Value::Nil } else { value })
            .collect())
    }
}

/// Knocks, and goes in with the first password that Redis takes.
pub async fn knock(place: &mut Place) -> Knock {
    let closed = |trouble| Knock { session: None, trouble: Some(trouble), password_required: false };
    match place.container_state.as_str() {
        "" | "running" => {}
        "missing" => return closed(Trouble::new("missing", "")),
        "paused" => return closed(Trouble::new("paused", "")),
        "restarting" => return closed(Trouble::new("restarting", "")),
        _ => return closed(Trouble::new("stopped", "")),
    }
    let (peer, line) = match first_line(place).await {
        Ok(answered) => answered,
        Err(trouble) => return closed(trouble),
    };
    let password_required = match hello(&line) {
        // Busy states are told by Redis once more, after the password.
        Greeting::Open => false,
        Greeting::Password => true,
        Greeting::Trouble(trouble) => return closed(trouble),
    };
    let mut session = match connect(peer, place).await {
        Ok((connection, driver)) => Session { connection, _driver: driver, password_required },
        Err(trouble) => return closed(trouble),
    };
    let mut refused = None;
    if password_required && let Err(trouble) = authenticate(place, &mut session).await {
        // What Redis itself was made with may still open it, and tell what is wrong.
        let inside = place.credentials.iter().any(|own| own.outcome == "accepted");
        if !inside {
            return Knock { session: None, trouble: Some(trouble), password_required };
        }
        refused = Some(trouble);
    }
    if place.database > 0
        && let Err(trouble) = session.ask(cmd("SELECT").arg(place.database)).await
    {
        return Knock { session: None, trouble: Some(trouble), password_required };
    }
    let trouble = match refused {
        Some(trouble) => Some(trouble),
        None => session.ask(&cmd("PING")).await.err().filter(|trouble| trouble.state != "misconf"),
    };
    // One that hangs is of no more use.
    let gone = trouble.as_ref().is_some_and(|trouble| matches!(trouble.state, "hung" | "unreachable"));
    Knock { session: (!gone).then_some(session), trouble, password_required }
}

/// Tries each password once. Those that the stack itself uses decide; what the container was made with is tried after
/// them, for what it tells.
async fn authenticate(place: &mut Place, session: &mut Session) -> Result<(), Trouble> {
    let mut verdict: Option<Trouble> = None;
    let mut tried: Vec<(Option<String>, Zeroizing<String>, &'static str)> = Vec::new();
    let mut let_in = false;
    let mut own_way = false;
    for credential in &mut place.credentials {
        let Some(password) = &credential.password else {
            credential.outcome = "none";
            continue;
        };
        let same =
            tried.iter().find(|(username, word, _)| *username == credential.username && word == password);
        credential.outcome = if let Some((_, _, outcome)) = same {
            outcome
        } else {
            let mut auth = cmd("AUTH");
            if let Some(username) = &credential.username {
                auth.arg(username);
            }
            match session.ask(auth.arg(password.as_str())).await {
                Ok(_) => "accepted",
                Err(trouble) if trouble.state == "wrong_password" => "refused",
                Err(trouble) => return Err(trouble),
            }
        };
        tried.push((credential.username.clone(), password.clone(), credential.outcome));
        let accepted = credential.outcome == "accepted";
        let_in |= accepted;
        if matches!(credential.source, "settings" | "env_url" | "env_password") {
            own_way |= accepted;
            if !accepted {
                verdict.get_or_insert_with(|| {
                    Trouble::new(
                        "wrong_password",
                        format!("{} in {} is refused", credential.name, credential.place),
                    )
                });
            }
        }
    }
    if own_way {
        return Ok(());
    }
    if let Some(trouble) = verdict {
        return Err(trouble);
    }
    // The stack's files say nothing: what the containers were made with is the stack's way.
    if let_in { Ok(()) } else { Err(Trouble::new("password_unknown", "NOAUTH Authentication required")) }
}

/// The library's error in Redis's own words.
fn said(error: &RedisError) -> Trouble {
    if error.is_timeout() {
        return Trouble::new("hung", "it did not answer in time");
    }
    if error.is_connection_refusal() {
        return Trouble::new("refused", "connection refused");
    }
    if error.is_io_error() || error.is_connection_dropped() {
        return Trouble::new("unreachable", "the connection broke");
    }
    if error.kind() == ErrorKind::Parse {
        return Trouble::new("protocol", "what answers is no Redis");
    }
    let code = error.code().unwrap_or("ERR");
    trouble_of(format!("{code} {}", error.detail().unwrap_or_default()).trim_end())
}
