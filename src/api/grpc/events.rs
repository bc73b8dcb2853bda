//! `daypass.v1.EventService`.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream;
use tonic::{Request, Response, Status};

use super::convert::moment;
use super::watch::{Term, Watched, bounded};
use super::{Api, page_size, parts};
use crate::api::v1;
use crate::api::v1::event_service_server::EventService;
use crate::desk::{EventFilter, SeenEvent};

/// Events that a stream reads at once.
const BATCH: usize = 200;

#[tonic::async_trait]
impl EventService for Api {
    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let (who, asked) = parts(request)?;
        let v1::ListEventsRequest { after, page_size: size, r#type, subject, request, grant, entitlement } =
            asked;
        let filter = EventFilter { kind: r#type, subject, request, grant, entitlement };
        let page = self.desk.events(&who, after, page_size(size), &filter).await?;
        // After the page: what it does not have and this counts is on the next.
        let last_number = if page.has_more { 0 } else { self.desk.last_event().await? };
        Ok(Response::new(v1::ListEventsResponse {
            events: page.events.into_iter().map(message).collect(),
            next_after: if page.has_more { page.reached } else { 0 },
            last_number,
        }))
    }

    type WatchEventsStream = Watched<v1::Event>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (who, asked) = parts(request)?;
        let v1::WatchEventsRequest { after, r#type, subject, request, grant, entitlement } = asked;
        let filter = EventFilter { kind: r#type, subject, request, grant, entitlement };
        let after = if after == 0 { self.desk.last_event().await? } else { after };
        let term = Term::of(&who);
        let held = Arc::new((self.permit(&who)?, Arc::clone(&self.desk), who, filter));
        let begin = (after, VecDeque::new());
        let stream =
            stream::try_unfold(begin, move |(mut reached, mut ready): (u64, VecDeque<SeenEvent>)| {
                let held = Arc::clone(&held);
                bounded(term, async move {
                    let (_permit, desk, who, filter) = &*held;
                    loop {
                        if let Some(event) = ready.pop_front() {
                            return Ok(Some((message(event), (reached, ready))));
                        }
                        let page = desk.events(who, reached, BATCH, filter).await?;
                        reached = page.reached;
                        ready.extend(page.events);
                        if ready.is_empty() && !page.has_more {
                            desk.moved(reached).await;
                        }
                    }
                })
            });
        Ok(Response::new(Box::pin(stream)))
    }
}

fn message(SeenEvent { stored, event }: SeenEvent) -> v1::Event {
    v1::Event {
        number: stored.number,
        time: Some(moment(event.time)),
        r#type: event.kind,
        actor: event.actor.unwrap_or_default(),
        subject: event.subject.unwrap_or_default(),
        request: event.request.unwrap_or_default(),
        grant: event.grant.unwrap_or_default(),
        lock: event.lock.unwrap_or_default(),
        entitlement: event.entitlement.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        break_glass: event.break_glass,
        document: stored.document,
        hash: stored.hash,
    }
}
