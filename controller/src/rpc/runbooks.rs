use tonic::{Request, Response, Status};
use vigie_proto::v1::{
    GetRunbookRequest, ListRunbooksRequest, ListRunbooksResponse, Runbook, runbooks_server,
};

use crate::{permit::Permit, runbooks::Runbooks};

/// The runbooks' side of the operators' API.
pub(crate) struct RunbooksRpc {
    pub(crate) runbooks: Runbooks,
}

#[tonic::async_trait]
impl runbooks_server::Runbooks for RunbooksRpc {
    async fn list_runbooks(
        &self,
        request: Request<ListRunbooksRequest>,
    ) -> Result<Response<ListRunbooksResponse>, Status> {
        let permit = Permit::of(&request)?;
        Ok(Response::new(ListRunbooksResponse { runbooks: self.runbooks.list(&permit) }))
    }

    async fn get_runbook(&self, request: Request<GetRunbookRequest>) -> Result<Response<Runbook>, Status> {
        let permit = Permit::of(&request)?;
        Ok(Response::new(self.runbooks.get(&permit, &request.get_ref().id)?))
    }
}
