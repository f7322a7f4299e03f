use tonic::{Request, Response, Status};
use vigie_proto::v1::{EnrolRequest, EnrolResponse, enrolment_server::Enrolment};
use vigie_transport::identity::Role;
use zeroize::Zeroizing;

use crate::{
    authority::RequestedKey,
    enrolment::{Applicant, Enrolled, Enrolments},
    error::EnrolError,
    permit::Permit,
};

/// The one rpc that asks for no client certificate.
pub(crate) struct EnrolmentRpc {
    pub(crate) enrolments: Enrolments,
    /// Where each role goes from here, `host:port`.
    pub(crate) operators_address: String,
    pub(crate) agents_address: String,
}

#[tonic::async_trait]
impl Enrolment for EnrolmentRpc {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let permit = Permit::of(&request)?;
        let applicant = Applicant::try_from(request.into_inner())?;
        let enrolled = self.enrolments.enrol(&permit, applicant).await?;
        Ok(Response::new(self.encode(enrolled)))
    }
}

impl TryFrom<EnrolRequest> for Applicant {
    type Error = EnrolError;

    fn try_from(request: EnrolRequest) -> Result<Self, EnrolError> {
        let operator = match (request.operator_name.is_empty(), request.trust_list) {
            (true, None) => None,
            (false, Some(list)) => Some((request.operator_name, list)),
            _ => return Err(EnrolError::Neither),
        };
        Ok(Self {
            token: request.token_id.parse().map_err(|_| EnrolError::TokenId)?,
            secret: Zeroizing::new(request.secret),
            key: RequestedKey::read(&request.certificate_request)?,
            operator,
        })
    }
}

impl EnrolmentRpc {
    fn encode(&self, enrolled: Enrolled) -> EnrolResponse {
        let Enrolled { enrolment, role, issuer } = enrolled;
        let mut certificate_chain = vec![enrolment.certificate];
        certificate_chain.extend(issuer.iter().map(|certificate| certificate.to_vec()));
        let address = match role {
            Role::Agent => &self.agents_address,
            Role::Operator | Role::Tool | Role::Controller => &self.operators_address,
        };
        let mut response = EnrolResponse {
            certificate_chain,
            controller_roots: self.enrolments.controller_roots().iter().map(|root| root.to_vec()).collect(),
            identity: enrolment.identity,
            address: address.clone(),
            ..EnrolResponse::default()
        };
        if let Some(agent) = enrolment.agent {
            response.host = agent.host.id.to_string();
            response.host_name = agent.host.name;
            response.incarnation = agent.host.incarnation;
            response.trust_list = Some(agent.trust_list);
        }
        response
    }
}
