//! Who may call what: one table, one row per rpc; what has no row is denied.
//!
//! The table is asked in one place, in front of every service of every listener, so that no rpc can forget to. What
//! comes through carries a [`Permit`], without which nothing behind the doors can be called.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use vigie_proto::{STALE_SINCE, STALE_WHY};
use vigie_transport::identity::Role;

use crate::{
    audit::{Audit, Intent, Kind},
    caller::{Caller, CallerError},
    error::GateError,
    store::Health,
};

/// Whom a row lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Everyone, with or without a certificate.
    Anyone,
    /// Peers whose certificate says this role.
    Role(Role),
}

/// What the table says of one rpc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// As in the request's path, without the first slash.
    pub method: &'static str,
    pub callers: Callers,
}

const fn operators(method: &'static str) -> Row {
    Row { method, callers: Callers::Role(Role::Operator) }
}

/// The table. Tools get rows of their own when they get certificates.
pub const TABLE: &[Row] = &[
    operators("vigie.v1.Hosts/ListHosts"),
    operators("vigie.v1.Hosts/GetHost"),
    operators("vigie.v1.Hosts/CreateJoinToken"),
    operators("vigie.v1.Runs/SubmitRun"),
    operators("vigie.v1.Runs/ListRuns"),
    operators("vigie.v1.Runs/WatchRun"),
    operators("vigie.v1.Runs/SignRun"),
    operators("vigie.v1.Runs/CancelRun"),
    operators("vigie.v1.Runs/AcknowledgeRun"),
    operators("vigie.v1.Runs/ResolveRun"),
    operators("vigie.v1.Runbooks/ListRunbooks"),
    operators("vigie.v1.Runbooks/GetRunbook"),
    operators("vigie.v1.Incidents/ListIncidents"),
    operators("vigie.v1.Incidents/GetIncident"),
    operators("vigie.v1.Incidents/NoteIncident"),
    operators("vigie.v1.Incidents/CloseIncident"),
    operators("grpc.health.v1.Health/Check"),
    operators("grpc.health.v1.Health/Watch"),
    operators("grpc.health.v1.Health/List"),
    operators("grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    Row { method: "vigie.v1.Link/Session", callers: Callers::Role(Role::Agent) },
    Row { method: "vigie.v1.Link/Output", callers: Callers::Role(Role::Agent) },
    Row { method: "vigie.v1.Enrolment/Enrol", callers: Callers::Anyone },
];

/// A caller's leave to call one rpc. Only the table gives one.
#[derive(Debug, Clone)]
pub struct Permit {
    caller: Arc<Caller>,
    method: &'static str,
}

/// The caller may not call this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{actor} may not call {method}")]
pub struct Denied {
    pub actor: String,
    pub method: String,
}

impl Permit {
    /// Asks the table.
    fn ask(caller: Caller, path: &str) -> Result<Self, (Caller, Denied)> {
        let method = path.strip_prefix('/').unwrap_or(path);
        let row = TABLE.iter().find(|row| row.method == method);
        let allowed = row.filter(|row| match row.callers {
            Callers::Anyone => true,
            Callers::Role(role) => caller.role() == Some(role),
        });
        match allowed {
            Some(row) => Ok(Self { caller: Arc::new(caller), method: row.method }),
            None => {
                let denied = Denied { actor: caller.actor(), method: method.chars().take(100).collect() };
                Err((caller, denied))
            }
        }
    }

    /// The permit with which a request came through the gate.
    ///
    /// # Errors
    /// When it did not come through: a listener was built without its gate.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| GateError::NoGate.into())
    }

    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The rpc, `vigie.v1.Runs/SubmitRun`.
    pub fn method(&self) -> &'static str {
        self.method
    }

    #[cfg(test)]
    pub(crate) fn for_test(identity: &str, method: &str) -> Self {
        let mut extensions = http::Extensions::new();
        extensions.insert(crate::caller::tests::peer(Some(identity), i64::MAX / 2));
        let caller = Caller::of(&extensions, SystemTime::now()).unwrap();
        Self::ask(caller, method).unwrap()
    }
}

/// Stands in front of a listener's services and lets through what the table allows.
#[derive(Clone)]
pub struct Gate {
    audit: Audit,
    health: watch::Receiver<Health>,
}

impl Gate {
    /// A gate that writes down whom it turns away, and marks what is answered while the store may be behind.
    pub fn new(audit: Audit, health: watch::Receiver<Health>) -> Self {
        Self { audit, health }
    }

    /// Says since when the answer may be behind, and why.
    fn mark(&self, headers: &mut http::HeaderMap) {
        let health = self.health.borrow();
        let Some((since_ms, why)) = health.stale() else { return };
        headers.insert(STALE_SINCE, since_ms.into());
        if let Ok(why) = http::HeaderValue::from_str(why) {
            headers.insert(STALE_WHY, why);
        }
    }

    /// The permit for a request, or the status that it is turned away with.
    async fn check(&self, extensions: &http::Extensions, path: &str) -> Result<Permit, Status> {
        let caller = Caller::of(extensions, SystemTime::now()).map_err(|error| match error {
            CallerError::Expired => GateError::Expired,
            CallerError::NoPeer | CallerError::NotAHost => GateError::NoGate,
        })?;
        match Permit::ask(caller, path) {
            Ok(permit) => Ok(permit),
            Err((caller, denied)) => {
                tracing::warn!(actor = %denied.actor, address = %caller.address(), method = %denied.method, "denied");
                // A stranger without a certificate could fill the disk with such entries; the log is enough for them.
                if caller.identity().is_some() {
                    self.audit.note(&Intent::denied(&caller, &denied.method), Kind::Denied).await;
                }
                Err(GateError::Denied(denied).into())
            }
        }
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

/// A service behind its gate.
#[derive(Clone)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The clone is not ready yet, the original is: it takes the call and the clone stays.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let gate = self.gate.clone();
        Box::pin(async move {
            match gate.check(request.extensions(), request.uri().path()).await {
                Ok(permit) => {
                    request.extensions_mut().insert(permit);
                    let mut answer = inner.call(request).await?;
                    gate.mark(answer.headers_mut());
                    Ok(answer)
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use vigie_proto::descriptors;

    use super::*;

    /// Every rpc of the contract has exactly one row, and no row stands for an rpc that there is not.
    #[test]
    fn the_table_and_the_contract_name_the_same_rpcs() {
        let contract: BTreeSet<String> = descriptors::pool()
            .services()
            .filter(|service| service.parent_file().package_name() == "vigie.v1")
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .map(|method| format!("{}/{}", method.parent_service().full_name(), method.name()))
            .collect();
        let rows: Vec<&str> = TABLE.iter().map(|row| row.method).collect();
        let ours: BTreeSet<String> = rows
            .iter()
            .filter(|method| method.starts_with("vigie."))
            .map(|method| (*method).to_owned())
            .collect();
        assert_eq!(ours, contract);
        assert_eq!(rows.len(), rows.iter().collect::<BTreeSet<_>>().len(), "a row stands twice");
    }

    /// Attack 1: what is turned away is written down, unless anyone could write it without end.
    #[tokio::test]
    async fn the_gate_writes_down_whom_it_turns_away() {
        use crate::store::{Sqlite, Store};
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&folder.path().join("store")).await.unwrap());
        let gate = Gate::new(Audit::new(Arc::clone(&store)), store.health());
        let ask = async |identity: Option<&str>, not_after| {
            let mut extensions = http::Extensions::new();
            extensions.insert(crate::caller::tests::peer(identity, not_after));
            gate.check(&extensions, "/vigie.v1.Runs/SubmitRun").await.map_err(|status| status.code())
        };
        let host = format!("spiffe://vigie/agent/{}", vigie_proto::id::HostId::new());
        let later = i64::MAX / 2;
        assert!(ask(Some("spiffe://vigie/operator/ada"), later).await.is_ok());
        assert_eq!(
            ask(Some("spiffe://vigie/operator/ada"), 0).await.unwrap_err(),
            tonic::Code::Unauthenticated
        );
        assert_eq!(ask(None, later).await.unwrap_err(), tonic::Code::PermissionDenied);
        assert_eq!(ask(Some(&host), later).await.unwrap_err(), tonic::Code::PermissionDenied);
        let past = gate.check(&http::Extensions::new(), "/vigie.v1.Runs/SubmitRun").await.unwrap_err();
        assert_eq!(past.code(), tonic::Code::Internal);
        let written = store.audit(0, 10).await.unwrap();
        let written: Vec<_> =
            written.iter().map(|record| (record.line.kind, record.line.actor.as_str())).collect();
        assert_eq!(written, [(Kind::Denied, host.as_str())]);
    }

    #[test]
    fn each_role_gets_its_rows_and_no_other() {
        let caller = |identity: Option<&str>| {
            let mut extensions = http::Extensions::new();
            extensions.insert(crate::caller::tests::peer(identity, i64::MAX / 2));
            Caller::of(&extensions, SystemTime::now()).unwrap()
        };
        let allowed = |identity: Option<&str>| -> Vec<&str> {
            TABLE
                .iter()
                .filter(|row| Permit::ask(caller(identity), &format!("/{}", row.method)).is_ok())
                .map(|row| row.method)
                .collect()
        };
        assert_eq!(allowed(None), ["vigie.v1.Enrolment/Enrol"]);
        let host = format!("spiffe://vigie/agent/{}", vigie_proto::id::HostId::new());
        assert_eq!(
            allowed(Some(&host)),
            ["vigie.v1.Link/Session", "vigie.v1.Link/Output", "vigie.v1.Enrolment/Enrol"]
        );
        assert_eq!(allowed(Some("spiffe://vigie/tool/ci")), ["vigie.v1.Enrolment/Enrol"]);
        assert_eq!(allowed(Some("spiffe://vigie/controller/one")), ["vigie.v1.Enrolment/Enrol"]);
        assert_eq!(allowed(Some("spiffe://vigie/operator/ada")).len(), TABLE.len() - 2);
        for unknown in
            ["/vigie.v1.Runs/DropAll", "/", "", "/vigie.v1.Runs/SubmitRun/", "//vigie.v1.Runs/SubmitRun"]
        {
            assert!(
                Permit::ask(caller(Some("spiffe://vigie/operator/ada")), unknown).is_err(),
                "{unknown:?}"
            );
        }
    }
}
