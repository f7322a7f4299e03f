use tonic::{Request, Response, Status};
use vigie_proto::v1::{
    AcknowledgeRunRequest, CancelRunRequest, ListRunsRequest, ListRunsResponse, ResolveRunRequest,
    RunSummary, SignRunRequest, SubmitRunRequest, WatchRunRequest, runs_server,
};

use crate::{
    error::RunsError,
    permit::Permit,
    runs::{Runs, Watching},
};

/// The runs' side of the operators' API.
pub(crate) struct RunsRpc {
    pub(crate) runs: Runs,
}

#[tonic::async_trait]
impl runs_server::Runs for RunsRpc {
    async fn submit_run(&self, request: Request<SubmitRunRequest>) -> Result<Response<RunSummary>, Status> {
        let permit = Permit::of(&request)?;
        let SubmitRunRequest { run, spec } = request.into_inner();
        let run = run.parse().map_err(RunsError::from)?;
        let spec = spec.ok_or(RunsError::NoKind)?;
        Ok(Response::new(self.runs.submit(&permit, run, spec).await?))
    }

    async fn list_runs(
        &self,
        request: Request<ListRunsRequest>,
    ) -> Result<Response<ListRunsResponse>, Status> {
        let permit = Permit::of(&request)?;
        let runs = self.runs.list(&permit, request.get_ref().limit).await?;
        Ok(Response::new(ListRunsResponse { runs }))
    }

    type WatchRunStream = Watching;

    async fn watch_run(&self, request: Request<WatchRunRequest>) -> Result<Response<Watching>, Status> {
        let permit = Permit::of(&request)?;
        let WatchRunRequest { run, after_seq, follow } = request.into_inner();
        Ok(Response::new(self.runs.watch(&permit, &run, after_seq, follow).await?))
    }

    async fn sign_run(&self, request: Request<SignRunRequest>) -> Result<Response<RunSummary>, Status> {
        let permit = Permit::of(&request)?;
        let SignRunRequest { run, manifest, signatures } = request.into_inner();
        Ok(Response::new(self.runs.sign(&permit, &run, manifest, signatures).await?))
    }

    async fn cancel_run(&self, request: Request<CancelRunRequest>) -> Result<Response<RunSummary>, Status> {
        let permit = Permit::of(&request)?;
        let CancelRunRequest { run, reason } = request.into_inner();
        Ok(Response::new(self.runs.cancel(&permit, &run, reason).await?))
    }

    async fn acknowledge_run(
        &self,
        request: Request<AcknowledgeRunRequest>,
    ) -> Result<Response<RunSummary>, Status> {
        let permit = Permit::of(&request)?;
        let AcknowledgeRunRequest { run, hosts, note } = request.into_inner();
        Ok(Response::new(self.runs.acknowledge(&permit, &run, hosts, note).await?))
    }

    async fn resolve_run(&self, request: Request<ResolveRunRequest>) -> Result<Response<RunSummary>, Status> {
        let permit = Permit::of(&request)?;
        Ok(Response::new(self.runs.resolve(&permit, request.into_inner()).await?))
    }
}
