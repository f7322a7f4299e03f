//! `[[notify]]` in `controller.toml`.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize};
use vigie_transport::credential::{FileError, read_private};

/// By which way people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A POST of the notice as JSON.
    Webhook,
    /// A POST to a topic of ntfy (<https://docs.ntfy.sh/publish/>).
    Ntfy,
    Email,
}

/// How the mail server is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmailTls {
    #[default]
    Starttls,
    /// From the first byte, as on port 465.
    Tls,
    /// For a relay on this machine.
    None,
}

/// One channel. Which keys a channel has depends on its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelSettings {
    /// Tells the channel from others; what waits for it is kept under this name.
    pub name: String,
    pub kind: Kind,
    /// `warning` (the default) or `critical`: what is less bad is not told here.
    #[serde(default)]
    pub severity: Option<String>,
    /// Webhook and ntfy: where to.
    #[serde(default)]
    pub url: Option<String>,
    /// Webhook and ntfy: a file that holds a bearer token, which only the controller's user may read.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// E-mail: `smtp.example.org` or `smtp.example.org:587`.
    #[serde(default)]
    pub server: Option<String>,
    #[serde(default)]
    pub tls: Option<EmailTls>,
    #[serde(default)]
    pub username: Option<String>,
    /// A file that holds the password, which only the controller's user may read.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    #[serde(default)]
    pub from: Option<String>,
    #[serde(default)]
    pub to: Vec<String>,
}

/// Why a channel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("[[notify]] {0:?}: a name has lower-case letters, digits and dashes, and is given once")]
    Name(String),
    #[error("[[notify]] {name}: `{key}` is missing; a channel of this kind needs it")]
    Missing { name: String, key: &'static str },
    #[error("[[notify]] {name}: `{key}` belongs to another kind of channel; remove it")]
    Stray { name: String, key: &'static str },
    #[error("[[notify]] {name}: `severity` is `warning` or `critical`")]
    Severity { name: String },
    #[error("[[notify]] {name}: `url` is no http or https URL")]
    Url { name: String },
    #[error("[[notify]] {name}: {address:?} is no e-mail address; write `name@example.org`")]
    Address { name: String, address: String, source: lettre::address::AddressError },
    #[error("[[notify]] {name}: `server` is a name, or a name and a port")]
    Server { name: String },
    #[error("[[notify]] {name}: {file} cannot be read")]
    Secret { name: String, file: PathBuf, source: FileError },
    #[error("[[notify]] {name}: TLS cannot be set up")]
    Tls { name: String, source: lettre::transport::smtp::Error },
    #[error("[[notify]] {name}: HTTP cannot be set up")]
    Http { name: String, source: reqwest::Error },
}

impl ChannelSettings {
    /// Looks at what stands in the file, without reading any other.
    ///
    /// # Errors
    /// Names the channel and the key.
    pub(crate) fn check_all(channels: &[Self]) -> Result<(), ChannelError> {
        let mut names = BTreeSet::new();
        for channel in channels {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let named =
                !channel.name.is_empty() && channel.name.len() <= 63 && channel.name.chars().all(fits);
            if !named || !names.insert(&channel.name) {
                return Err(ChannelError::Name(channel.name.clone()));
            }
            channel.check()?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ChannelError> {
        let missing = |key| ChannelError::Missing { name: self.name.clone(), key };
        let web = [("url", self.url.is_some()), ("token_file", self.token_file.is_some())];
        let mail = [
            ("server", self.server.is_some()),
            ("tls", self.tls.is_some()),
            ("username", self.username.is_some()),
            ("password_file", self.password_file.is_some()),
            ("from", self.from.is_some()),
            ("to", !self.to.is_empty()),
        ];
        let strays: &[(&'static str, bool)] = if self.kind == Kind::Email { &web } else { &mail };
        if let Some((key, _)) = strays.iter().find(|(_, given)| *given) {
            return Err(ChannelError::Stray { name: self.name.clone(), key });
        }
        if !matches!(self.severity.as_deref(), None | Some("warning" | "critical")) {
            return Err(ChannelError::Severity { name: self.name.clone() });
        }
        match self.kind {
            Kind::Webhook | Kind::Ntfy => {
                let url = self.url.as_deref().ok_or_else(|| missing("url"))?;
                let fits = reqwest::Url::parse(url)
                    .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
                if !fits {
                    return Err(ChannelError::Url { name: self.name.clone() });
                }
            }
            Kind::Email => {
                self.server.as_ref().ok_or_else(|| missing("server"))?;
                self.from.as_ref().ok_or_else(|| missing("from"))?;
                if self.to.is_empty() {
                    return Err(missing("to"));
                }
                if self.username.is_some() != self.password_file.is_some() {
                    return Err(missing(if self.username.is_some() { "password_file" } else { "username" }));
                }
            }
        }
        Ok(())
    }

    /// How bad an incident must at least be.
    pub(super) fn least(&self) -> u8 {
        crate::incidents::rank(self.severity.as_deref().unwrap_or("warning"))
    }

    /// The secret in a file, without the line's end.
    pub(super) fn secret(&self, file: &std::path::Path) -> Result<String, ChannelError> {
        let failed = |source| ChannelError::Secret { name: self.name.clone(), file: file.to_owned(), source };
        let text = read_private(file).map_err(failed)?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}
