//! Where `vigiectl` keeps what it knows: contexts under the configuration folder, keys and runs under the state
//! folder.
//!
//! A context is one controller as one operator knows it. Folders have mode 0700 and files 0600. Nothing here speaks
//! to the network.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use vigie_proto::selector::is_host_name;
use vigie_transport::credential::{read_private, write_private};

use crate::error::Error;

/// The context that is used while nobody names one.
const DEFAULT: &str = "default";

/// The two folders.
#[derive(Debug, Clone)]
pub struct Home {
    config: PathBuf,
    state: PathBuf,
}

impl Home {
    /// Both folders inside one.
    pub fn under(root: &Path) -> Self {
        Self { config: root.join("config"), state: root.join("state") }
    }

    /// From `VIGIE_HOME`, or the folders of the XDG base directory specification.
    ///
    /// # Errors
    /// When the environment names no home at all.
    pub fn from_environment(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, Error> {
        let set = |name| variable(name).filter(|path| path.is_absolute());
        if let Some(root) = variable("VIGIE_HOME").filter(|path| !path.as_os_str().is_empty()) {
            return Ok(Self::under(&root));
        }
        let home = || {
            set("HOME").ok_or_else(|| {
                Error::usage(
                    "there is no home folder: HOME is not set",
                    "set HOME, or VIGIE_HOME to a folder to use",
                )
            })
        };
        Ok(Self {
            config: set("XDG_CONFIG_HOME")
                .map_or_else(|| home().map(|home| home.join(".config")), Ok)?
                .join("vigie"),
            state: set("XDG_STATE_HOME")
                .map_or_else(|| home().map(|home| home.join(".local/state")), Ok)?
                .join("vigie"),
        })
    }

    /// The context of this name, or the current one.
    ///
    /// # Errors
    /// When there is none, or its file does not read.
    pub fn context(&self, name: Option<&str>) -> Result<Context, Error> {
        let current = self.current()?;
        let named = name.map(str::to_owned).or(current);
        let name = named.clone().unwrap_or_else(|| DEFAULT.to_owned());
        let path = self.context_file(&name)?;
        if !path.exists() {
            return Err(if named.is_some() { Error::NoContext(name) } else { Error::NotLoggedIn });
        }
        let settings = toml::from_str(&read_private(&path)?)
            .map_err(|source| Error::ContextFile { path: path.clone(), source })?;
        Ok(Context { name, settings })
    }

    /// Whether a context of this name is there.
    pub(crate) fn has(&self, name: &str) -> Result<bool, Error> {
        Ok(self.context_file(name)?.exists())
    }

    /// Writes a context and makes it the current one where there is none.
    pub(crate) fn save(&self, context: &Context) -> Result<(), Error> {
        let path = self.context_file(&context.name)?;
        write(&path, &toml::to_string_pretty(&context.settings).unwrap_or_default())?;
        if self.current()?.is_none() {
            let current = Current { context: context.name.clone() };
            write(&self.config.join("config.toml"), &toml::to_string_pretty(&current).unwrap_or_default())?;
        }
        Ok(())
    }

    /// The state folder of a context, made where it is missing.
    pub(crate) fn state(&self, context: &str) -> Result<PathBuf, Error> {
        let path = self.state.join(checked(context)?);
        make(&path)?;
        Ok(path)
    }

    fn current(&self) -> Result<Option<String>, Error> {
        let path = self.config.join("config.toml");
        if !path.exists() {
            return Ok(None);
        }
        let current: Current =
            toml::from_str(&read_private(&path)?).map_err(|source| Error::ContextFile { path, source })?;
        Ok(Some(current.context))
    }

    fn context_file(&self, name: &str) -> Result<PathBuf, Error> {
        Ok(self.config.join("contexts").join(format!("{}.toml", checked(name)?)))
    }
}

/// A name that is safe as a file's.
fn checked(name: &str) -> Result<&str, Error> {
    if is_host_name(name) {
        return Ok(name);
    }
    Err(Error::usage(
        format!("{name:?} cannot name a context"),
        "use lower-case letters, digits, `.`, `-` and `_`",
    ))
}

/// Makes a folder that only its owner may look into.
pub(crate) fn make(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    path.parent().map_or(Ok(()), make)?;
    Ok(write_private(path, text.as_bytes())?)
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Current {
    context: String,
}

/// One controller, as one operator knows it.
#[derive(Debug, Clone)]
pub struct Context {
    pub name: String,
    pub settings: Settings,
}

/// What a context's file holds; `vigiectl login` writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The operators' API, `host:port`.
    pub address: String,
    /// By this name the operator signs.
    pub operator: String,
    /// `spiffe://…`, as in the certificate.
    pub identity: String,
    /// SHA-256 of the controller CA's public key, in hexadecimal. New hosts get it with their token.
    pub controller_pin: String,
    /// SHA-256 of the trust list in hexadecimal. New hosts get it with their token.
    pub trust_list_digest: String,
    /// The controller's CA certificates, PEM.
    pub roots: String,
}

/// Removes a file that is no longer needed; that it is gone already is fine.
pub(crate) fn forget(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    pub(crate) fn settings() -> Settings {
        Settings {
            address: "vigie.example.com:7420".to_owned(),
            operator: "ana".to_owned(),
            identity: "spiffe://fleet.test/operator/ana".to_owned(),
            controller_pin: "02".repeat(32),
            trust_list_digest: "03".repeat(32),
            roots: String::new(),
        }
    }

    #[test]
    fn the_first_context_becomes_the_current_one_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::under(folder.path());
        assert!(matches!(home.context(None), Err(Error::NotLoggedIn)));
        for name in ["work", "home"] {
            home.save(&Context { name: name.to_owned(), settings: settings() }).unwrap();
        }
        assert_eq!(home.context(None).unwrap().name, "work");
        assert_eq!(home.context(Some("home")).unwrap().settings.operator, "ana");
        assert!(matches!(home.context(Some("other")), Err(Error::NoContext(_))));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("config/contexts/work.toml")), 0o600);
        assert_eq!(mode(&folder.path().join("config/contexts")), 0o700);
    }

    #[test]
    fn a_context_cannot_leave_its_folder() {
        let home = Home::under(Path::new("/nowhere"));
        for name in ["../etc", "a/b", "", ".hidden"] {
            assert!(matches!(home.context(Some(name)), Err(Error::Usage { .. })), "{name:?}");
        }
    }

    #[test]
    fn folders_come_from_the_environment() {
        let of = |pairs: &[(&str, &str)]| {
            Home::from_environment(|name| {
                pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v))
            })
        };
        let home = of(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]).unwrap();
        assert_eq!((home.config, home.state), (PathBuf::from("/h/.config/vigie"), PathBuf::from("/s/vigie")));
        assert_eq!(of(&[("VIGIE_HOME", "/v"), ("HOME", "/h")]).unwrap().state, PathBuf::from("/v/state"));
        assert!(of(&[]).is_err());
    }
}
