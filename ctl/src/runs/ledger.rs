//! The runs that were opened from this machine, written down before they are sent: whatever becomes of the first
//! answer, the same run can be asked for again, and nothing is opened twice.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use prost::Message as _;
use vigie_proto::{
    id::RunId,
    order::digest,
    v1::{RunSpec, SubmitRunRequest},
};
use vigie_transport::credential::write_private;

use crate::{
    context::{forget, make},
    error::Error,
};

/// How long a request is kept: nobody resumes an older run, and what came of it is in the controller's log.
const KEPT_MS: i64 = 30 * 24 * 3600 * 1000;

/// An order that was signed here.
struct SignedOrder {
    /// The digest of its plan's manifest.
    plan: String,
    until_ms: i64,
    place: String,
}

/// One context's requests.
#[derive(Debug)]
pub(crate) struct Ledger {
    folder: PathBuf,
}

impl Ledger {
    /// The ledger in a context's state folder.
    pub(crate) fn of(state: &Path) -> Self {
        Self { folder: state.join("runs") }
    }

    /// Writes a request down, synced to the disk, and forgets those that are too old.
    pub(crate) fn write(&self, run: RunId, request: &SubmitRunRequest, now_ms: i64) -> Result<(), Error> {
        make(&self.folder)?;
        write_private(&self.file(run), &request.encode_to_vec())?;
        for old in self.known().into_iter().filter(|known| known.made_at_ms() < now_ms - KEPT_MS) {
            forget(&self.file(old))?;
            forget(&self.signature(old))?;
        }
        Ok(())
    }

    /// Strikes out a request that the controller refused.
    pub(crate) fn forget(&self, run: RunId) -> Result<(), Error> {
        forget(&self.file(run))
    }

    /// What was asked for; `None` for a run that was not opened here.
    pub(crate) fn read(&self, run: RunId) -> Option<RunSpec> {
        let bytes = fs::read(self.file(run)).ok()?;
        SubmitRunRequest::decode(bytes.as_slice()).ok()?.spec
    }

    /// Writes down, before it is sent, that this plan of this run is signed, whose orders for these places may start until
    /// then.
    pub(crate) fn sign(
        &self,
        run: RunId,
        manifest: &[u8],
        until_ms: i64,
        places: &[String],
        now_ms: i64,
    ) -> Result<(), Error> {
        make(&self.folder)?;
        let kept = self
            .signed(run)?
            .into_iter()
            .filter(|signed| signed.until_ms >= now_ms && !places.contains(&signed.place));
        let plan = HEXLOWER.encode(&digest(manifest));
        let signed = kept.chain(places.iter().map(|place| SignedOrder {
            plan: plan.clone(),
            until_ms,
            place: place.clone(),
        }));
        let lines: String =
            signed.map(|own| format!("{} {} {}\n", own.until_ms, own.plan, own.place)).collect();
        Ok(write_private(&self.signature(run), lines.as_bytes())?)
    }

    /// The orders of plans of this run that were signed here. A record that does not read is no sign that nothing was signed.
    fn signed(&self, run: RunId) -> Result<Vec<SignedOrder>, Error> {
        let path = self.signature(run);
        let damaged = |source: io::Error| Error::Signed { path: path.clone(), source };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(damaged(error)),
        };
        let line = |(number, line): (usize, &str)| {
            let mut words = line.splitn(3, ' ');
            let mut order = || {
                let (until, plan, place) = (words.next()?, words.next()?, words.next()?);
                Some(SignedOrder {
                    plan: plan.to_owned(),
                    until_ms: until.parse().ok()?,
                    place: place.to_owned(),
                })
            };
            let why = || io::Error::new(io::ErrorKind::InvalidData, format!("line {number} is damaged"));
            order().ok_or_else(|| damaged(why()))
        };
        (1..).zip(text.lines()).map(line).collect()
    }

    /// Until when an order for one of these places may start that was signed here already with another plan. The same plan
    /// signed twice is the same orders, of which each runs once.
    pub(crate) fn signed_until(
        &self,
        run: RunId,
        manifest: &[u8],
        places: &[String],
    ) -> Result<Option<i64>, Error> {
        let plan = HEXLOWER.encode(&digest(manifest));
        let signed = self
            .signed(run)?
            .into_iter()
            .filter(|signed| places.contains(&signed.place) && signed.plan != plan);
        Ok(signed.map(|signed| signed.until_ms).max())
    }

    /// Whether a plan of this run was signed here.
    pub(crate) fn was_signed(&self, run: RunId) -> bool {
        self.signature(run).exists()
    }

    /// The runs that were opened here.
    pub(crate) fn known(&self) -> Vec<RunId> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(".pb")?.parse().ok()).collect()
    }

    fn signature(&self, run: RunId) -> PathBuf {
        self.folder.join(format!("{run}.signed"))
    }

    fn file(&self, run: RunId) -> PathBuf {
        self.folder.join(format!("{run}.pb"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::now_ms;

    #[test]
    fn what_was_asked_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::of(folder.path());
        let (run, old) = (RunId::new(), "01800000-0000-7000-8000-000000000000".parse().unwrap());
        let spec = RunSpec { timeout_ms: 7, ..Default::default() };
        for id in [old, run] {
            let request = SubmitRunRequest { run: id.to_string(), spec: Some(spec.clone()) };
            ledger.write(id, &request, now_ms()).unwrap();
        }
        assert_eq!(ledger.read(run), Some(spec));
        assert_eq!((ledger.known(), ledger.read(old)), (vec![run], None));
        let (one, two) = (["a/".to_owned()], ["b/".to_owned()]);
        let later = now_ms() + 60_000;
        let until = |manifest: &[u8], places: &[String]| ledger.signed_until(run, manifest, places).unwrap();
        ledger.sign(run, b"first", later, &one, now_ms()).unwrap();
        assert_eq!((until(b"other", &one), until(b"other", &two)), (Some(later), None));
        assert_eq!(until(b"first", &one), None, "the same plan is the same orders");
        ledger.sign(run, b"second", later + 1, &two, now_ms()).unwrap();
        assert_eq!(until(b"second", &one), Some(later));
        ledger.forget(run).unwrap();
        assert_eq!((ledger.known(), ledger.read(run)), (Vec::new(), None));
    }

    /// Otherwise a second plan would be signed while the first may still start.
    #[test]
    fn a_signature_that_cannot_be_read_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::of(folder.path());
        let (run, places) = (RunId::new(), ["a/".to_owned()]);
        let later = now_ms() + 60_000;
        ledger.sign(run, b"first", later, &places, now_ms()).unwrap();
        let path = ledger.signature(run);
        let whole = fs::read(&path).unwrap();
        let damages: [&[u8]; 3] = [b"\xff\xfe", b"soon a b", &whole[..whole.len() - 40]];
        for damage in damages {
            fs::write(&path, damage).unwrap();
            let error = ledger.signed_until(run, b"other", &places).unwrap_err();
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            assert!(error.hint().is_some());
            assert!(ledger.sign(run, b"other", later, &places, now_ms()).is_err());
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(ledger.signed_until(run, b"other", &places), Err(Error::Signed { .. })));
    }
}
