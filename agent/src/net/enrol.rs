//! Enrolment: a one-time token becomes this host's certificate.
//!
//! The key is made here and never leaves. The token pins the controller's CA and the trust list, so that nothing is
//! trusted because it came first. The enrolment is written in one piece at the end; until then the key waits in a file
//! of its own, so that an interrupted attempt is repeated with the same key, which the controller answers the same.

use std::{
    fs::{self, DirBuilder},
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;
use tonic::{Code, Status};
use vigie_proto::{
    id::{HostId, IdError},
    order::{TrustError, TrustedKeys},
    token::{Token, TokenError},
    v1::{EnrolRequest, EnrolResponse, enrolment_client::EnrolmentClient},
};
use vigie_transport::{
    client::{Address, AddressError, ConnectError, Keepalive, connect},
    credential::{Credential, CredentialError, FileError, KeyError, LoadError, PrivateKey, read_private},
    identity::{IdentityError, Role},
    pin::{Pin, PinError},
    tls::{ServerTrust, TlsConfigError, client_config},
};
use zeroize::Zeroizing;

use crate::{
    config::EnrollArgs,
    enrolled::Enrolled,
    host::journal::{FileStorage, Journal},
};

/// The key of an enrolment that is under way.
const KEY: &str = "enrolment-key.pem";

/// Where the journal is, below the state folder.
pub const JOURNAL: &str = "journal";

/// For the controller's answer.
const ANSWER: Duration = Duration::from_secs(30);

/// No token is longer.
const LONGEST_TOKEN: u64 = 4096;

/// Why the host is not enrolled. Nothing of it repeats the token.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("this host is enrolled already, as {0}")]
    Already(String),
    #[error("the token cannot be read from {0}")]
    ReadToken(String, #[source] io::Error),
    #[error(transparent)]
    TokenFile(FileError),
    #[error("what was given is no join token")]
    Token(#[source] TokenError),
    #[error("the token has no trust list's digest: it is a person's login token, not a host's")]
    NoTrustPin,
    #[error("the token's address is none")]
    Address(#[source] AddressError),
    #[error("the state folder {path} cannot be made")]
    State { path: PathBuf, source: io::Error },
    #[error("no key")]
    Key(#[source] KeyError),
    #[error("the key of an earlier attempt cannot be read")]
    EarlierKey(#[source] LoadError),
    #[error(transparent)]
    File(FileError),
    #[error("no TLS")]
    Tls(#[source] TlsConfigError),
    #[error("{0}")]
    Connect(ConnectError),
    #[error("the controller did not answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("the controller refuses the enrolment ({code:?}): {message}", code = .0.code(), message = .0.message())]
    Refused(Box<Status>),
    #[error("the controller's answer is not to be trusted: {0}")]
    Answer(#[from] AnswerError),
    #[error("the journal cannot be made")]
    Journal(#[source] io::Error),
}

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the certificate is not for this host's key")]
    Certificate(#[source] CredentialError),
    #[error("the certificate names nobody")]
    Identity(#[source] IdentityError),
    #[error("the certificate is for {certificate} and the answer for {answer}")]
    Other { certificate: String, answer: String },
    #[error("the host's id is none")]
    Host(#[source] IdError),
    #[error("the link's address is none")]
    Address(#[source] AddressError),
    #[error("it has no CA certificate")]
    NoRoots,
    #[error("one of its CA certificates is none")]
    Root(#[source] PinError),
    #[error("none of its CA certificates is the one that the token pins")]
    NotPinned,
    #[error("it has no trust list")]
    NoTrustList,
    #[error("its trust list is not taken")]
    Trust(#[source] TrustError),
}

impl EnrolError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Already(_) => {
                "to enrol it anew, make a token with `vigiectl hosts token --replace` and add `--replace`"
            }
            Self::ReadToken(..) | Self::Token(_) => {
                "copy the whole token, from `vig1.` on, into a file or to standard input"
            }
            Self::NoTrustPin => "make a host's token with `vigiectl hosts token NAME`",
            Self::Connect(error) => error.hint(),
            Self::Address(_) => {
                "make a new token; if it is the same, correct the controller's enrolment address"
            }
            Self::State { .. } => "run as root, or name another folder with --state",
            Self::EarlierKey(_) => "remove the file and make a new token",
            Self::Silent => "try again with the same token; if it lasts, look into the controller's log",
            Self::Refused(status) => match status.code() {
                Code::Unauthenticated
                | Code::PermissionDenied
                | Code::NotFound
                | Code::FailedPrecondition => {
                    "a token can be used once and for ten minutes: make a new one with `vigiectl hosts token`"
                }
                Code::AlreadyExists => {
                    "a host has this name: make a token with `vigiectl hosts token NAME --replace`, or under another name"
                }
                _ => "try again with the same token; if it lasts, look into the controller's log",
            },
            Self::Answer(_) => {
                "do not go on unless you know why: the token is another fleet's, or the controller is not yours"
            }
            Self::TokenFile(_) | Self::Key(_) | Self::File(_) | Self::Tls(_) | Self::Journal(_) => {
                return None;
            }
        })
    }
}

/// Enrols this host.
///
/// # Errors
/// When it is not enrolled afterwards; what it was before, it still is.
pub async fn enroll(args: &EnrollArgs) -> Result<Enrolled, EnrolError> {
    if Enrolled::exists(&args.state) && !args.replace {
        let who = Enrolled::load(&args.state)
            .map_or_else(|error| error.to_string(), |enrolled| enrolled.to_string());
        return Err(EnrolError::Already(who));
    }
    let token = read_token(args.token_file.as_deref())?;
    let trust_pin = token.trust_list.ok_or(EnrolError::NoTrustPin)?;
    let address: Address = token.address.parse().map_err(EnrolError::Address)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.state)
        .map_err(|source| EnrolError::State { path: args.state.clone(), source })?;
    let key = key(&args.state)?;
    let pin = Pin::from_bytes(token.ca_pin);
    let tls = client_config(ServerTrust::Pinned(pin), None).map_err(EnrolError::Tls)?;
    let channel =
        connect(address, Arc::clone(&tls), Keepalive::default()).await.map_err(EnrolError::Connect)?;
    let request = EnrolRequest {
        token_id: token.id.to_string(),
        secret: token.secret.to_vec(),
        certificate_request: key.certificate_request().map_err(EnrolError::Key)?,
        ..EnrolRequest::default()
    };
    let answer = timeout(ANSWER, EnrolmentClient::new(channel).enrol(request))
        .await
        .map_err(|_| EnrolError::Silent)?
        .map_err(|status| EnrolError::Refused(Box::new(status)))?
        .into_inner();
    let enrolled = believe(answer, key, &pin, trust_pin)?;
    // The journal comes first: a host that is enrolled and has none is one that has lost it.
    FileStorage::new(&args.state.join(JOURNAL))
        .and_then(|mut storage| Journal::create(&mut storage))
        .map_err(EnrolError::Journal)?;
    enrolled.save(&args.state).map_err(EnrolError::File)?;
    // From here on the key is in the enrolment. A copy that stays would only be used for the next one.
    if let Err(error) = fs::remove_file(args.state.join(KEY)) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            file = KEY,
            "the key of the enrolment stays behind"
        );
    }
    Ok(enrolled)
}

fn read_token(file: Option<&Path>) -> Result<Token, EnrolError> {
    let text = match file {
        Some(path) => read_private(path).map_err(EnrolError::TokenFile)?,
        None => {
            let mut text = Zeroizing::new(String::with_capacity(1024));
            io::stdin()
                .lock()
                .take(LONGEST_TOKEN)
                .read_to_string(&mut text)
                .map_err(|error| EnrolError::ReadToken("standard input".to_owned(), error))?;
            text
        }
    };
    text.parse().map_err(EnrolError::Token)
}

/// The key of the attempt that was interrupted, or a new one, which is on the disk before anybody hears of it.
fn key(state: &Path) -> Result<PrivateKey, EnrolError> {
    let path = state.join(KEY);
    if path.symlink_metadata().is_ok() {
        return PrivateKey::load(&path).map_err(EnrolError::EarlierKey);
    }
    let key = PrivateKey::generate().map_err(EnrolError::Key)?;
    key.save(&path).map_err(EnrolError::File)?;
    Ok(key)
}

/// Checks an answer against the token's pins and this host's key.
fn believe(
    answer: EnrolResponse,
    key: PrivateKey,
    pin: &Pin,
    trust_pin: [u8; 32],
) -> Result<Enrolled, AnswerError> {
    let chain = answer.certificate_chain.into_iter().map(Into::into).collect();
    let credential = Credential::new(chain, key).map_err(AnswerError::Certificate)?;
    let identity = credential.identity().map_err(AnswerError::Identity)?;
    if identity.role() != Role::Agent
        || identity.name() != answer.host
        || identity.to_string() != answer.identity
    {
        return Err(AnswerError::Other { certificate: identity.to_string(), answer: answer.identity });
    }
    let roots: Vec<_> = answer.controller_roots.into_iter().map(Into::into).collect();
    let pins = roots.iter().map(Pin::of).collect::<Result<Vec<_>, _>>().map_err(AnswerError::Root)?;
    match pins.as_slice() {
        [] => return Err(AnswerError::NoRoots),
        pins if !pins.contains(pin) => return Err(AnswerError::NotPinned),
        _ => {}
    }
    let trust_list = answer.trust_list.ok_or(AnswerError::NoTrustList)?;
    TrustedKeys::pinned(&trust_list, &trust_pin).map_err(AnswerError::Trust)?;
    Ok(Enrolled {
        host: answer.host.parse::<HostId>().map_err(AnswerError::Host)?,
        name: answer.host_name,
        incarnation: answer.incarnation,
        link: answer.address.parse().map_err(AnswerError::Address)?,
        credential,
        roots,
        trust_list,
        trust_pin,
    })
}

#[cfg(test)]
mod tests;
