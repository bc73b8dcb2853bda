//! `daypass.v1.AccessService`.

use tonic::{Request, Response, Status};

use super::convert::{self, duration, moment, optional, proto_duration};
use super::{Api, page_size, parts};
use crate::api::v1;
use crate::api::v1::access_service_server::AccessService;
use crate::desk::Offer;
use crate::entitlement::Entitlement;
use crate::permission::Target;
use crate::principal::{Caller, Identity, Principal};
use crate::standing::{Asked, Standing};

/// Longest host or path of a question, in bytes: Envoy's own limit for all headers.
const MAX_ASKED_BYTES: usize = 60 * 1024;
/// Entitlements that one answer offers.
const MAX_OFFERS: usize = 20;

#[tonic::async_trait]
impl AccessService for Api {
    async fn list_entitlements(
        &self,
        request: Request<v1::ListEntitlementsRequest>,
    ) -> Result<Response<v1::ListEntitlementsResponse>, Status> {
        let (who, v1::ListEntitlementsRequest { page_size: size, page_token }) = parts(request)?;
        let seen = self.desk.entitlements(&who)?;
        let (page, next_page_token) = convert::page(seen, |one| &one.name, page_size(size), &page_token);
        let entitlements = page.into_iter().map(|one| entitlement(one, &who)).collect();
        Ok(Response::new(v1::ListEntitlementsResponse { entitlements, next_page_token }))
    }

    async fn get_entitlement(
        &self,
        request: Request<v1::GetEntitlementRequest>,
    ) -> Result<Response<v1::Entitlement>, Status> {
        let (who, v1::GetEntitlementRequest { name }) = parts(request)?;
        Ok(Response::new(entitlement(self.desk.entitlement(&who, &name)?, &who)))
    }

    async fn break_glass(
        &self,
        request: Request<v1::BreakGlassRequest>,
    ) -> Result<Response<v1::Grant>, Status> {
        let (who, asked) = parts(request)?;
        let v1::BreakGlassRequest { entitlement, reason, duration: asked_duration, ticket } = asked;
        let asked_duration = duration("duration", asked_duration)?;
        let grant = self.desk.break_glass(&who, &entitlement, &reason, asked_duration, &ticket).await?;
        Ok(Response::new(convert::grant(grant)))
    }

    async fn explain_access(
        &self,
        request: Request<v1::ExplainAccessRequest>,
    ) -> Result<Response<v1::ExplainAccessResponse>, Status> {
        let (who, asked) = parts(request)?;
        let v1::ExplainAccessRequest { principal, host, method, path, source_address } = asked;
        let caller = self.asked_for(&who, &principal)?;
        if host.is_empty() {
            return Err(Status::invalid_argument("`host` is missing"));
        }
        if host.len() > MAX_ASKED_BYTES || path.len() > MAX_ASKED_BYTES || method.len() > MAX_ASKED_BYTES {
            return Err(Status::invalid_argument(
                "`host`, `method` or `path` is longer than Envoy lets through",
            ));
        }
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let source = optional(&source_address).map(str::parse).transpose();
        let asked = Asked {
            host,
            method: or(method, "GET"),
            path: or(path, "/"),
            source: source.map_err(|_| Status::invalid_argument("`source_address` is no IP address"))?,
        };
        let standing = (self.explain)(caller.clone(), asked.clone()).await;
        let target = Target::http(&asked.host, &asked.method, &asked.path, None).with_source(asked.source);
        let offers = if standing.allowed { Vec::new() } else { self.desk.offers(&who, &caller, &target) };
        Ok(Response::new(explanation(standing, offers, &caller)))
    }

    async fn get_caller(
        &self,
        request: Request<v1::GetCallerRequest>,
    ) -> Result<Response<v1::CallerIdentity>, Status> {
        let (who, v1::GetCallerRequest {}) = parts(request)?;
        Ok(Response::new(v1::CallerIdentity {
            subject: who.subject.to_string(),
            principals: who.caller.principals().iter().map(ToString::to_string).collect(),
            delegate: who.delegate.as_ref().map(ToString::to_string).unwrap_or_default(),
            source: who.evidence.as_str().to_owned(),
            expires_at: who.expires_at.map(moment),
        }))
    }
}

impl Api {
    /// Whose standing is asked for: of others only if policy lets the caller see it.
    fn asked_for(&self, who: &Identity, principal: &str) -> Result<Caller, Status> {
        let Some(principal) = optional(principal) else { return Ok(who.caller.clone()) };
        let principal: Principal =
            principal.parse().map_err(|error| convert::invalid("principal", &error))?;
        if principal == who.subject {
            return Ok(who.caller.clone());
        }
        self.desk.check_explain(who, &principal)?;
        Ok(Caller::new(vec![principal]))
    }
}

fn entitlement(found: Entitlement, who: &Identity) -> v1::Entitlement {
    let names = |principals: &[Principal]| principals.iter().map(ToString::to_string).collect();
    let is_one_of = |principals: &[Principal]| {
        principals.iter().any(|principal| who.caller.principals().contains(principal))
    };
    v1::Entitlement {
        eligible: names(&found.eligible),
        approvers: names(&found.approvers),
        can_request: is_one_of(&found.eligible),
        can_review: is_one_of(&found.approvers),
        can_break_glass: is_one_of(&found.break_glass.eligible),
        name: found.name,
        description: found.description,
        permissions: found.permissions.into_iter().map(convert::permission_of).collect(),
        roles: found.roles,
        approvals_required: found.approvals,
        default_ttl: Some(proto_duration(found.default_ttl)),
        max_ttl: Some(proto_duration(found.max_ttl)),
        approve_within: Some(proto_duration(found.approve_within)),
        justification_required: found.justification.required,
        ticket_pattern: found.ticket.pattern.unwrap_or_default(),
        max_uses: found.max_uses.map_or(0, std::num::NonZeroU64::get),
        revision: found.revision,
    }
}

fn explanation(standing: Standing, offers: Vec<Offer>, caller: &Caller) -> v1::ExplainAccessResponse {
    let standings = standing.grants.into_iter().map(|grant| v1::GrantStanding {
        grant: grant.grant,
        covers: grant.covers,
        why_not: grant.why_not.unwrap_or_default(),
        expires_at: Some(moment(grant.expires_at)),
    });
    let offer = |offer: Offer| v1::Offer {
        command: format!("daypass request create {} --reason '...'", offer.entitlement.name),
        entitlement: offer.entitlement.name,
        description: offer.entitlement.description,
        eligible: offer.is_eligible,
        approvals_required: offer.entitlement.approvals,
    };
    v1::ExplainAccessResponse {
        allowed: standing.allowed,
        reason: standing.reason.to_owned(),
        message: standing.message,
        grant: standing.grant.unwrap_or_default(),
        expires_at: standing.expires_at.map(moment),
        standings: standings.collect(),
        lock: standing.lock.unwrap_or_default(),
        offers: offers.into_iter().take(MAX_OFFERS).map(offer).collect(),
        principals: caller.principals().iter().map(ToString::to_string).collect(),
    }
}
