//! `daypass.v1.RequestService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{self, duration, moment, optional, timestamp};
use super::watch::{View, Watched};
use super::{Api, page_size, parts};
use crate::api::v1;
use crate::api::v1::request_service_server::RequestService;
use crate::api::v1::search_access_requests::Relation as Wanted;
use crate::desk::model::{Decision, Kind, State};
use crate::desk::{Ask, Relation, model};

#[tonic::async_trait]
impl RequestService for Api {
    async fn create_request(
        &self,
        request: Request<v1::CreateAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        let (who, asked) = parts(request)?;
        let v1::CreateAccessRequest {
            entitlement,
            duration: asked_duration,
            justification,
            ticket,
            not_before,
            subject,
            request_id,
            validate_only,
        } = asked;
        if entitlement.is_empty() {
            return Err(Status::invalid_argument("`entitlement` is missing"));
        }
        let ask = Ask {
            entitlement,
            duration: duration("duration", asked_duration)?,
            justification,
            ticket,
            not_before: not_before.map(|moment| timestamp("not_before", moment)).transpose()?,
            subject: optional(&subject).map(convert::principal).transpose()?,
            call: optional(&request_id).map(str::to_owned),
            validate_only,
        };
        Ok(Response::new(message(self.desk.ask(&who, ask).await?)))
    }

    async fn get_request(
        &self,
        request: Request<v1::GetAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        let (who, v1::GetAccessRequest { id }) = parts(request)?;
        Ok(Response::new(message(self.desk.request(&who, &id).await?.request)))
    }

    async fn list_requests(
        &self,
        request: Request<v1::ListAccessRequests>,
    ) -> Result<Response<v1::ListAccessRequestsResponse>, Status> {
        let (who, asked) = parts(request)?;
        let state = match v1::RequestState::try_from(asked.state) {
            Ok(v1::RequestState::Unspecified) => None,
            Ok(state) => Some(state),
            Err(_) => return Err(Status::invalid_argument("`state` is none of the states")),
        };
        let keep = |request: &model::Request| {
            state.is_none_or(|state| state == state_of(request.state))
                && (asked.entitlement.is_empty() || asked.entitlement == request.entitlement)
        };
        let page = (page_size(asked.page_size), asked.page_token.as_str());
        Ok(Response::new(list(self.desk.requests(&who, page, keep).await?)))
    }

    async fn search_requests(
        &self,
        request: Request<v1::SearchAccessRequests>,
    ) -> Result<Response<v1::ListAccessRequestsResponse>, Status> {
        let (who, asked) = parts(request)?;
        let relation = match Wanted::try_from(asked.relation) {
            Ok(Wanted::Mine) => Relation::Mine,
            Ok(Wanted::CanReview) => Relation::CanReview,
            Ok(Wanted::Reviewed) => Relation::Reviewed,
            Ok(Wanted::Unspecified) | Err(_) => {
                return Err(Status::invalid_argument("`relation` is MINE, CAN_REVIEW or REVIEWED"));
            }
        };
        let page = (page_size(asked.page_size), asked.page_token.as_str());
        Ok(Response::new(list(self.desk.search(&who, relation, page).await?)))
    }

    async fn approve_request(
        &self,
        request: Request<v1::ApproveAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        let (who, v1::ApproveAccessRequest { id, reason, duration: narrowed }) = parts(request)?;
        let narrowed = duration("duration", narrowed)?;
        Ok(Response::new(message(self.desk.approve(&who, &id, &reason, narrowed).await?)))
    }

    async fn deny_request(
        &self,
        request: Request<v1::DenyAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        let (who, v1::DenyAccessRequest { id, reason }) = parts(request)?;
        Ok(Response::new(message(self.desk.deny(&who, &id, &reason).await?)))
    }

    async fn withdraw_request(
        &self,
        request: Request<v1::WithdrawAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        let (who, v1::WithdrawAccessRequest { id }) = parts(request)?;
        Ok(Response::new(message(self.desk.withdraw(&who, &id).await?)))
    }

    type WatchRequestStream = Watched<v1::AccessRequest>;

    async fn watch_request(
        &self,
        request: Request<v1::WatchAccessRequest>,
    ) -> Result<Response<Self::WatchRequestStream>, Status> {
        let (who, v1::WatchAccessRequest { id }) = parts(request)?;
        // What cannot be seen is an answer, not a stream that fails.
        self.desk.request(&who, &id).await?;
        let (desk, watcher) = (Arc::clone(&self.desk), who.clone());
        let look = move || {
            let (desk, who, id) = (Arc::clone(&desk), watcher.clone(), id.clone());
            async move {
                let seen = desk.request(&who, &id).await?;
                let is_final = seen.request.state != State::Pending;
                Ok(View { item: message(seen.request), number: seen.number, is_final })
            }
        };
        Ok(Response::new(self.watch(&who, look)?))
    }
}

fn list(page: crate::desk::Page<model::Request>) -> v1::ListAccessRequestsResponse {
    v1::ListAccessRequestsResponse {
        requests: page.items.into_iter().map(message).collect(),
        next_page_token: page.next.unwrap_or_default(),
    }
}

const fn state_of(state: State) -> v1::RequestState {
    match state {
        State::Pending => v1::RequestState::Pending,
        State::Approved => v1::RequestState::Approved,
        State::Denied => v1::RequestState::Denied,
        State::Withdrawn => v1::RequestState::Withdrawn,
        State::Expired => v1::RequestState::Expired,
    }
}

/// An access request as the API shows it.
pub fn message(request: model::Request) -> v1::AccessRequest {
    let kind = match request.kind {
        Kind::Access => v1::RequestKind::Access,
        Kind::Extension => v1::RequestKind::Extension,
    };
    let review = |review: model::Review| v1::Review {
        reviewer: review.reviewer.name,
        decision: match review.decision {
            Decision::Approved => v1::ReviewDecision::ReviewApproved.into(),
            Decision::Denied => v1::ReviewDecision::ReviewDenied.into(),
        },
        reason: review.reason,
        time: Some(moment(review.time)),
        duration: review.duration.map(convert::proto_duration),
    };
    v1::AccessRequest {
        id: request.id,
        kind: kind.into(),
        state: state_of(request.state).into(),
        entitlement: request.entitlement,
        entitlement_revision: request.revision,
        requester: request.requester.name,
        subject: request.subject,
        delegate: request.requester.delegate.unwrap_or_default(),
        justification: request.justification,
        ticket: request.ticket,
        duration: request.duration.map(convert::proto_duration),
        granted_duration: request.granted.map(convert::proto_duration),
        not_before: request.not_before.map(moment),
        approve_by: Some(moment(request.approve_by)),
        create_time: Some(moment(request.created)),
        decide_time: request.decided.map(moment),
        approvals_required: request.approvals_required,
        reviews: request.reviews.into_iter().map(review).collect(),
        grant: request.grant.unwrap_or_default(),
        reason: request.reason,
        approvers: request.approvers,
    }
}
