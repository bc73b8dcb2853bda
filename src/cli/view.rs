//! Requests, grants and the rest in words.

use jiff::Timestamp;

use super::output::{Block, Table, clean, column};
use super::when;
use crate::api::v1;

/// `GET orders.example /db/**`
pub fn reach(permissions: &[v1::Permission], roles: &[String]) -> String {
    let list = |items: &[String]| if items.is_empty() { "any".to_owned() } else { items.join(",") };
    let permission = |permission: &v1::Permission| {
        if permission.grpc_methods.is_empty() {
            format!("{} {} {}", list(&permission.methods), list(&permission.hosts), list(&permission.paths))
        } else {
            format!("gRPC {} {}", list(&permission.hosts), list(&permission.grpc_methods))
        }
    };
    if permissions.is_empty() {
        format!("roles {}", list(roles))
    } else {
        permissions.iter().map(permission).collect::<Vec<_>>().join(" or ")
    }
}

/// `active`, `relinquished`; empty where the server says nothing.
pub fn grant_state(grant: &v1::Grant) -> String {
    match grant.state() {
        v1::GrantState::Unspecified => String::new(),
        state => state.as_str_name().to_lowercase(),
    }
}

fn ends(grant: &v1::Grant, now: Timestamp) -> String {
    let end = when::from_proto(grant.expires_at);
    end.map_or_else(|| "unknown".to_owned(), |end| when::relative(end, now))
}

/// One line about a grant that was just made: the id is its second word, for those who read it with a script.
pub fn created(verb: &str, grant: &v1::Grant, now: Timestamp) -> String {
    let flag = if grant.break_glass { " (break-glass)" } else { "" };
    clean(&format!(
        "{verb} {} for {}: {}, ends {}{flag}",
        grant.id,
        grant.subject,
        reach(&grant.permissions, &grant.roles),
        when::both(grant.expires_at, now)
    )) + "\n"
}

pub fn grants(grants: &[v1::Grant], width: Option<usize>, now: Timestamp) -> String {
    let with_state = grants.iter().any(|grant| {
        !matches!(grant.state(), v1::GrantState::Unspecified | v1::GrantState::Active) || grant.break_glass
    });
    if !with_state {
        let columns = [column("ID", 9), column("SUBJECT", 4), column("COVERS", 1), column("ENDS", 7)];
        let mut table = Table::new(columns);
        for grant in grants {
            let covers = reach(&grant.permissions, &grant.roles);
            table.row([grant.id.clone(), grant.subject.clone(), covers, ends(grant, now)]);
        }
        return table.render(width, "no grants");
    }
    let columns =
        [column("ID", 9), column("SUBJECT", 4), column("COVERS", 1), column("STATE", 6), column("ENDS", 7)];
    let mut table = Table::new(columns);
    for grant in grants {
        let covers = reach(&grant.permissions, &grant.roles);
        let flag = if grant.break_glass { " break-glass" } else { "" };
        let state = format!("{}{flag}", grant_state(grant));
        table.row([grant.id.clone(), grant.subject.clone(), covers, state, ends(grant, now)]);
    }
    table.render(width, "no grants")
}

pub fn revoked(verb: &str, revoked: &v1::RevokeGrantResponse) -> String {
    let v1::RevokeGrantResponse { ids, replicas, replicated } = revoked;
    if ids.is_empty() {
        return "nothing to revoke\n".to_owned();
    }
    let lines = ids.iter().map(|id| format!("{verb} {}\n", clean(id))).collect::<Vec<_>>().concat();
    if replicated >= replicas {
        return lines;
    }
    format!(
        "{lines}{replicated} of {replicas} replicas of the store have it; if one without it takes over, the revocation is \
         asked for again\n"
    )
}

pub fn state(request: &v1::AccessRequest) -> String {
    match request.state() {
        v1::RequestState::Unspecified => "unknown".to_owned(),
        state => state.as_str_name().to_lowercase(),
    }
}

pub fn approvals(request: &v1::AccessRequest) -> usize {
    let agreed = |review: &&v1::Review| review.decision() == v1::ReviewDecision::ReviewApproved;
    request.reviews.iter().filter(agreed).count()
}

/// `1 of 2 approvals`
pub fn tally(request: &v1::AccessRequest) -> String {
    format!("{} of {} approvals", approvals(request), request.approvals_required)
}

/// The length that is in force: as asked, or as narrowed.
fn granted(request: &v1::AccessRequest) -> String {
    let asked = when::spelled(request.duration);
    match when::spelled(request.granted_duration) {
        granted if granted.is_empty() || granted == asked => asked,
        granted => format!("{granted} (asked for {asked})"),
    }
}

pub fn request(request: &v1::AccessRequest, now: Timestamp) -> String {
    let kind = if request.kind() == v1::RequestKind::Extension { "extension " } else { "" };
    let id = if request.id.is_empty() { "(dry run)" } else { &request.id };
    let is_pending = request.state() == v1::RequestState::Pending;
    let mut block = Block::new(&format!("{kind}request {id}: {}", state(request)));
    let requester = if request.requester == request.subject { "" } else { request.requester.as_str() };
    block
        .field("entitlement", &request.entitlement)
        .field("subject", &request.subject)
        .field("asked by", requester)
        .field("acting for them", &request.delegate)
        .field("for", granted(request))
        .field("begins", when::both(request.not_before, now))
        .field("reason", &request.justification)
        .field("ticket", &request.ticket);
    for review in &request.reviews {
        let decision = match review.decision() {
            v1::ReviewDecision::ReviewDenied => "denied by",
            _ => "approved by",
        };
        let narrowed = review.duration.map(|_| format!(" for {}", when::spelled(review.duration)));
        let reason = if review.reason.is_empty() { String::new() } else { format!(": {}", review.reason) };
        let when = when::short(review.time, now);
        block.field(
            decision,
            format!("{}{} {when}{reason}", review.reviewer, narrowed.unwrap_or_default()).trim_end(),
        );
    }
    if is_pending {
        block
            .field("approvals", tally(request))
            .field("may approve", request.approvers.join(", "))
            .field("expires", when::both(request.approve_by, now));
    } else {
        block.field("because", &request.reason).field("decided", when::both(request.decide_time, now));
    }
    block.field("grant", &request.grant).field("asked", when::both(request.create_time, now));
    block.render()
}

pub fn requests(requests: &[v1::AccessRequest], width: Option<usize>, now: Timestamp) -> String {
    let mut table = Table::new([
        column("ID", 9),
        column("STATE", 8),
        column("ENTITLEMENT", 6),
        column("SUBJECT", 5),
        column("FOR", 4),
        column("APPROVALS", 3),
        column("ASKED", 2),
        column("REASON", 1),
    ]);
    for request in requests {
        table.row([
            request.id.clone(),
            state(request),
            request.entitlement.clone(),
            request.subject.clone(),
            when::spelled(request.granted_duration.or(request.duration)),
            format!("{}/{}", approvals(request), request.approvals_required),
            when::short(request.create_time, now),
            request.justification.clone(),
        ]);
    }
    table.render(width, "no requests")
}

/// How a decision reads in one line.
pub fn outcome(request: &v1::AccessRequest) -> String {
    let by: Vec<&str> = request.reviews.iter().map(|review| review.reviewer.as_str()).collect();
    let by = if by.is_empty() { String::new() } else { format!(" by {}", by.join(", ")) };
    let reasons = request.reviews.iter().rev().map(|review| review.reason.as_str());
    let reason = std::iter::once(request.reason.as_str()).chain(reasons).find(|reason| !reason.is_empty());
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let id = &request.id;
    let text = match request.state() {
        v1::RequestState::Denied => format!("request {id} was denied{by}{reason}"),
        v1::RequestState::Expired => format!("request {id} expired: nobody decided in time; ask again"),
        v1::RequestState::Withdrawn => format!("request {id} was withdrawn{reason}"),
        v1::RequestState::Approved => format!("request {id} was approved{by}{reason}"),
        v1::RequestState::Pending | v1::RequestState::Unspecified => {
            format!("request {id} is {}: {}", state(request), tally(request))
        }
    };
    clean(&text)
}

/// `user:alice`, `entitlement db-admin`, `everything`
pub fn lock_target(lock: &v1::Lock) -> String {
    use v1::lock::Target;
    match &lock.target {
        Some(Target::Principal(principal)) => principal.clone(),
        Some(Target::Entitlement(entitlement)) => format!("entitlement {entitlement}"),
        Some(Target::Everything(_)) => "everything".to_owned(),
        None => "unknown".to_owned(),
    }
}

pub fn locks(locks: &[v1::Lock], width: Option<usize>, now: Timestamp) -> String {
    let mut table = Table::new([
        column("ID", 9),
        column("LOCKED", 8),
        column("ENDS", 6),
        column("BY", 2),
        column("MESSAGE", 1),
    ]);
    for lock in locks {
        table.row([
            lock.id.clone(),
            lock_target(lock),
            when::short(lock.expires_at, now),
            lock.created_by.clone(),
            lock.message.clone(),
        ]);
    }
    table.render(width, "no locks")
}
