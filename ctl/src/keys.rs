//! The operator's two keys, which never leave this machine: the TLS key, and the key that signs orders.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use vigie_proto::order::SigningKey;
use vigie_transport::credential::{Credential, PrivateKey, read_private, write_private};
use zeroize::Zeroizing;

use crate::{
    context::{forget, make},
    error::Error,
};

/// Both keys of a login that is not finished.
pub(crate) struct Pending {
    pub(crate) tls: PrivateKey,
    pub(crate) order: SigningKey,
}

/// The files of one context's state folder.
#[derive(Debug)]
pub(crate) struct Keys {
    folder: PathBuf,
}

impl Keys {
    pub(crate) fn of(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn credential_file(&self) -> PathBuf {
        self.folder.join("credential.pem")
    }

    fn order_file(&self) -> PathBuf {
        self.folder.join("order.key")
    }

    /// The keys of a login that is not finished. They are on disk before the token is redeemed, and are the same at a
    /// further attempt: the same token with the same key gives the same certificate, so that a lost answer loses
    /// nothing, and the keys of an earlier login stay until there are better ones.
    pub(crate) fn pending(&self) -> Result<Pending, Error> {
        let folder = self.folder.join("login");
        make(&folder)?;
        let (tls_file, order_file) = (folder.join("tls.pem"), folder.join("order.key"));
        let tls = if tls_file.exists() {
            PrivateKey::load(&tls_file)?
        } else {
            let key = PrivateKey::generate()?;
            key.save(&tls_file)?;
            key
        };
        let order = if order_file.exists() {
            read_order_key(&order_file)?
        } else {
            let key = SigningKey::generate().map_err(|_| Error::Randomness)?;
            write_order_key(&order_file, &key)?;
            key
        };
        Ok(Pending { tls, order })
    }

    /// Keeps what a login brought, in place of what was there.
    pub(crate) fn keep(&self, credential: &Credential, order: &SigningKey) -> Result<(), Error> {
        credential.save(&self.credential_file())?;
        write_order_key(&self.order_file(), order)?;
        for file in ["tls.pem", "order.key"] {
            forget(&self.folder.join("login").join(file))?;
        }
        Ok(())
    }

    /// The key that signs orders.
    pub(crate) fn order(&self) -> Result<SigningKey, Error> {
        read_order_key(&self.order_file())
    }

    /// The certificate and its key.
    pub(crate) fn credential(&self) -> Result<Credential, Error> {
        let path = self.credential_file();
        Ok(Credential::load(&path, &path)?)
    }
}

fn write_order_key(path: &Path, key: &SigningKey) -> Result<(), Error> {
    let text = Zeroizing::new(HEXLOWER.encode(&key.seed()[..]));
    Ok(write_private(path, text.as_bytes())?)
}

fn read_order_key(path: &Path) -> Result<SigningKey, Error> {
    let text = read_private(path)?;
    let seed = Zeroizing::new(HEXLOWER.decode(text.trim().as_bytes()).unwrap_or_default());
    let seed = seed.as_slice().try_into().map_err(|_| Error::OrderKey(path.to_owned()))?;
    Ok(SigningKey::from_seed(seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_login_finds_the_same_keys() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::of(folder.path().to_owned());
        let first = keys.pending().unwrap();
        let again = keys.pending().unwrap();
        assert_eq!(*again.tls.to_pem(), *first.tls.to_pem());
        assert_eq!(again.order.public(), first.order.public());
    }

    #[test]
    fn a_damaged_key_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::of(folder.path().to_owned());
        write_private(&keys.order_file(), b"c0ffee").unwrap();
        let Err(error) = keys.order() else { panic!("it is too short") };
        let text = error.to_string();
        assert!(text.contains("order.key") && !text.contains("c0ffee"), "{text}");
    }
}
