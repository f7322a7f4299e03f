use tonic::{Request, Response, Status};
use vigie_proto::v1::{
    CloseIncidentRequest, GetIncidentRequest, Incident, ListIncidentsRequest, ListIncidentsResponse,
    NoteIncidentRequest, incidents_server,
};

use crate::{incidents::Incidents, permit::Permit};

/// The incidents' side of the operators' API.
pub(crate) struct IncidentsRpc {
    pub(crate) incidents: Incidents,
}

#[tonic::async_trait]
impl incidents_server::Incidents for IncidentsRpc {
    async fn list_incidents(
        &self,
        request: Request<ListIncidentsRequest>,
    ) -> Result<Response<ListIncidentsResponse>, Status> {
        let permit = Permit::of(&request)?;
        let ListIncidentsRequest { closed, limit } = request.into_inner();
        let incidents = self.incidents.list(&permit, closed, limit).await?;
        let contacts = self.incidents.contacts().to_vec();
        Ok(Response::new(ListIncidentsResponse { incidents, contacts }))
    }

    async fn get_incident(&self, request: Request<GetIncidentRequest>) -> Result<Response<Incident>, Status> {
        let permit = Permit::of(&request)?;
        Ok(Response::new(self.incidents.get(&permit, &request.get_ref().incident).await?))
    }

    async fn note_incident(
        &self,
        request: Request<NoteIncidentRequest>,
    ) -> Result<Response<Incident>, Status> {
        let permit = Permit::of(&request)?;
        Ok(Response::new(self.incidents.note(&permit, request.into_inner()).await?))
    }

    async fn close_incident(
        &self,
        request: Request<CloseIncidentRequest>,
    ) -> Result<Response<Incident>, Status> {
        let permit = Permit::of(&request)?;
        let CloseIncidentRequest { incident, force } = request.into_inner();
        Ok(Response::new(self.incidents.close(&permit, &incident, force).await?))
    }
}
