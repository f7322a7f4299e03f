use tonic::{Request, Response, Status};
use vigie_proto::v1::{
    self, CreateJoinTokenRequest, CreateJoinTokenResponse, GetHostRequest, ListHostsRequest,
    ListHostsResponse, hosts_server::Hosts,
};

use crate::{enrolment::Enrolments, fleet::Fleet, permit::Permit};

/// The hosts' side of the operators' API.
pub(crate) struct HostsRpc {
    pub(crate) fleet: Fleet,
    pub(crate) enrolments: Enrolments,
    /// Where agents enrol, `host:port`.
    pub(crate) enrolment_address: String,
}

#[tonic::async_trait]
impl Hosts for HostsRpc {
    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        let permit = Permit::of(&request)?;
        let hosts = self.fleet.list(&permit, request.get_ref().selector.as_ref())?;
        Ok(Response::new(ListHostsResponse { hosts }))
    }

    async fn get_host(&self, request: Request<GetHostRequest>) -> Result<Response<v1::Host>, Status> {
        let permit = Permit::of(&request)?;
        Ok(Response::new(self.fleet.host(&permit, &request.get_ref().host)?))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let permit = Permit::of(&request)?;
        let token = self.enrolments.join_token(&permit, request.into_inner()).await?;
        Ok(Response::new(CreateJoinTokenResponse {
            token_id: token.id.to_string(),
            secret: token.secret.to_vec(),
            expires_at_ms: token.expires_at_ms,
            enrolment_address: self.enrolment_address.clone(),
        }))
    }
}
