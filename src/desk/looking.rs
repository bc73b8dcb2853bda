//! Looking: requests, grants and entitlements, as far as the caller may see them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::changes::{parse, read};
use super::grants::rows_of;
use super::model::{Decision, Kind, Party, Registered, Request, Review, Standing, State};
use super::questions::{About, Action, Asking};
use super::requests::Relation;
use super::{Desk, DeskError};
use crate::clock::Clock;
use crate::entitlement::Entitlement;
use crate::grant::GrantId;
use crate::permission::Target as Asked;
use crate::principal::{Caller, Identity, Principal};
use crate::store::StoreError;
use crate::store::journal::{Index, Place, Row, Table};

/// Rows that one page looks at. Those the caller may not see are among them, so a page may be short.
const MAX_SCANNED: usize = 2000;
/// Rows that are read at once.
const BATCH: usize = 200;
/// Of an index, at once: what a store gives in one answer.
const PAGE: usize = 1000;
/// Grants that policy is asked about for one list. Nobody but those who see everything has more.
const MAX_JUDGED: usize = 2000;
/// Grants that one list holds before it is cut into pages.
const MAX_LISTED: usize = 200_000;

/// Something that was looked at, and the number of the last event before.
#[derive(Debug, Clone)]
pub struct Seen {
    pub request: Request,
    pub number: u64,
}

#[derive(Debug, Clone)]
pub struct SeenGrant {
    pub grant: Registered,
    pub number: u64,
}

/// Part of a list, and where the next part begins.
#[derive(Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

/// An entitlement that would cover a request.
#[derive(Debug, Clone)]
pub struct Offer {
    pub entitlement: Entitlement,
    pub is_eligible: bool,
}

impl Desk {
    /// # Errors
    /// There is no such request, or not for this caller.
    pub async fn request(&self, who: &Identity, id: &str) -> Result<Seen, DeskError> {
        let id: GrantId = id.parse().map_err(|_| DeskError::NotFound("request"))?;
        let look = self.store.look(&[Row::new(Table::Requests, id.as_str())]).await?;
        let request: Request = read(&look, 0, "request")?;
        let admission = self.admission.current();
        let asking = self.asking(&admission, Some(who), look.now);
        if !sees_request(&asking, &request)? {
            return Err(DeskError::NotFound("request"));
        }
        Ok(Seen { request: shown(request, look.now), number: look.head.number })
    }

    /// Requests the caller may see, the newest first.
    ///
    /// # Errors
    /// The page token is none, or the store cannot be read.
    pub async fn requests(
        &self,
        who: &Identity,
        page: (usize, &str),
        keep: impl Fn(&Request) -> bool,
    ) -> Result<Page<Request>, DeskError> {
        let pick = |asking: &Asking<'_>, request: &Request, _: Option<&Registered>| {
            Ok(keep(request) && sees_request(asking, request)?)
        };
        self.scan_requests(who, &Index::Requests, page, pick).await
    }

    /// Requests by what the caller has to do with them.
    ///
    /// # Errors
    /// As [`Self::requests`].
    pub async fn search(
        &self,
        who: &Identity,
        relation: Relation,
        page: (usize, &str),
    ) -> Result<Page<Request>, DeskError> {
        let me = who.subject.to_string();
        let sees =
            |asking: &Asking<'_>, request: &Request, _: Option<&Registered>| sees_request(asking, request);
        match relation {
            Relation::Mine => self.scan_requests(who, &Index::Of(me), page, sees).await,
            Relation::Reviewed => self.scan_requests(who, &Index::ReviewedBy(me), page, sees).await,
            Relation::CanReview => self.scan_requests(who, &Index::Pending, page, can_review).await,
        }
    }

    async fn scan_requests(
        &self,
        who: &Identity,
        index: &Index,
        (size, token): (usize, &str),
        pick: impl Fn(&Asking<'_>, &Request, Option<&Registered>) -> Result<bool, DeskError>,
    ) -> Result<Page<Request>, DeskError> {
        let mut before = place(token)?;
        let mut items = Vec::new();
        let mut scanned = 0;
        loop {
            let places = self.store.scan(index, before.as_ref(), BATCH).await?;
            let rows: Vec<Row> = places.iter().map(|(_, id)| Row::new(Table::Requests, id.clone())).collect();
            let look = self.store.look(&rows).await?;
            let is_last = places.len() < BATCH;
            let requests: Vec<Option<Request>> = look
                .values
                .iter()
                // One that was kept for its time is gone.
                .map(|text| text.as_deref().map(parse::<Request>).transpose())
                .collect::<Result<_, _>>()?;
            let extended = self.extended_by(&requests).await?;
            let looked_at = self.picking(|| {
                let admission = self.admission.current();
                let asking = self.asking(&admission, Some(who), look.now);
                for (at, request) in requests.into_iter().enumerate() {
                    if let Some(request) = request {
                        let request = shown(request, look.now);
                        let grant = request.grant.as_ref().and_then(|id| extended.get(id));
                        match pick(&asking, &request, grant) {
                            Ok(true) => items.push(request),
                            // Logged where it happened; one that policy fails on hides no other.
                            Ok(false) | Err(DeskError::Admission(_)) => {}
                            Err(error) => return Err(error),
                        }
                    }
                    if items.len() >= size {
                        return Ok(at + 1);
                    }
                }
                Ok(places.len())
            });
            let looked_at = looked_at.await?;
            scanned += looked_at;
            let is_cut = looked_at < places.len();
            before = places.into_iter().nth(looked_at.saturating_sub(1)).or(before);
            if is_last && !is_cut {
                return Ok(Page { items, next: None });
            }
            if items.len() >= size || scanned >= MAX_SCANNED {
                return Ok(Page { items, next: before.map(|(at, id)| format!("{at}.{id}")) });
            }
        }
    }

    /// The grants that requests for more time are for: policy looks at both.
    async fn extended_by(
        &self,
        requests: &[Option<Request>],
    ) -> Result<BTreeMap<String, Registered>, DeskError> {
        let extensions = requests.iter().flatten().filter(|request| request.kind == Kind::Extension);
        let ids: Vec<String> = extensions.filter_map(|request| request.grant.clone()).collect();
        let grants = self.registered(ids.into_iter()).await?;
        Ok(grants.into_iter().map(|grant| (grant.id.clone(), grant)).collect())
    }

    /// # Errors
    /// There is no such grant, or not for this caller.
    pub async fn grant(&self, who: &Identity, id: &str) -> Result<SeenGrant, DeskError> {
        let id: GrantId = id.parse().map_err(|_| DeskError::NotFound("grant"))?;
        let look = self.store.look(&rows_of(id.as_str())).await?;
        let grant = match look.values.first().cloned().flatten() {
            Some(text) => known(parse(&text)?, look.values.get(1).is_some_and(Option::is_some), look.now),
            // Somebody wrote its key alone.
            None if look.values.get(1).is_some_and(Option::is_some) => {
                let stored = match self.replica.get(id.as_str()).as_deref().and_then(stored) {
                    Some(stored) => stored,
                    None => self.store.get(id.clone()).await?,
                };
                Registered::of_key(&id, stored.record, look.now, stored.expires_at)
            }
            None => return Err(DeskError::NotFound("grant")),
        };
        let admission = self.admission.current();
        let asking = self.asking(&admission, Some(who), look.now);
        self.see_grant(&asking, &grant)?;
        Ok(SeenGrant { grant, number: look.head.number })
    }

    pub(super) fn see_grant(&self, asking: &Asking<'_>, grant: &Registered) -> Result<(), DeskError> {
        let _ = self;
        if sees_grant(asking, grant)? { Ok(()) } else { Err(DeskError::NotFound("grant")) }
    }

    /// Grants the caller may see, by id: all of a subject's, or of the caller's own names; everybody's for those who
    /// may see everything.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn grants(
        &self,
        who: &Identity,
        subject: Option<&Principal>,
        entitlement: &str,
        include_ended: bool,
    ) -> Result<Vec<Registered>, DeskError> {
        let admission = self.admission.snapshot();
        let look = self.store.look(&[]).await?;
        let sees_all = self.asking(&admission, Some(who), look.now).sees_all();
        let mut found: BTreeMap<String, Registered> = BTreeMap::new();
        let indexes: Vec<Index> = match subject {
            Some(subject) => vec![Index::RegisterOf(subject.to_string())],
            None if sees_all => vec![Index::Register],
            None => who.caller.principals().iter().map(|name| Index::RegisterOf(name.to_string())).collect(),
        };
        for index in &indexes {
            match self.entered(index).await {
                Ok(grants) => found.extend(grants.into_iter().map(|grant| (grant.id.clone(), grant))),
                // While a cluster moves keys it may not read several at once; those that live are there all the same.
                Err(DeskError::Store(StoreError::NotNow(why))) => {
                    tracing::warn!("the register cannot be read, and live grants are shown alone: {why}");
                }
                Err(error) => return Err(error),
            }
        }
        let names: Option<Vec<&Principal>> = match subject {
            Some(subject) => Some(vec![subject]),
            None if sees_all => None,
            None => Some(who.caller.principals().iter().collect()),
        };
        let mut live: BTreeMap<String, Timestamp> = BTreeMap::new();
        for stored in self.live(names.as_deref()).await? {
            let id = stored.id.to_string();
            live.insert(id.clone(), stored.expires_at);
            let of_key =
                || Registered::of_key(&stored.id, stored.record.clone(), look.now, stored.expires_at);
            found.entry(id).or_insert_with(of_key);
        }
        let known = found.into_iter().map(|(id, grant)| known(grant, live.contains_key(&id), look.now));
        let mut asked_for: Vec<Registered> = known
            .filter(|grant| {
                (include_ended || grant.standing.is_open())
                    && (entitlement.is_empty() || grant.record.entitlement.as_deref() == Some(entitlement))
                    && subject.is_none_or(|subject| grant.record.subject == subject.as_str())
            })
            .collect();
        if sees_all {
            return Ok(asked_for);
        }
        // More than one answer shows is not asked about.
        asked_for.truncate(MAX_JUDGED);
        let mut grants = Vec::new();
        let mut rest = asked_for.into_iter().peekable();
        while rest.peek().is_some() {
            let batch: Vec<Registered> = rest.by_ref().take(BATCH).collect();
            let seen = self.picking(|| {
                let asking = self.asking(&admission, Some(who), look.now);
                let judged = batch.into_iter().map(|grant| Ok((sees_grant(&asking, &grant)?, grant)));
                judged.collect::<Result<Vec<_>, DeskError>>()
            });
            grants.extend(seen.await?.into_iter().filter_map(|(sees, grant)| sees.then_some(grant)));
        }
        Ok(grants)
    }

    /// Keys there are. Of a few principals the store is not searched whole: the replica has theirs, and what was written
    /// a moment ago is in the register.
    async fn live(&self, names: Option<&[&Principal]>) -> Result<Vec<crate::store::StoredGrant>, DeskError> {
        match names {
            None => Ok(self.store.list(None).await?),
            Some(names) if self.replica.freshness(Clock::System.now()).is_fresh() => {
                let names = Caller::new(names.iter().map(|&name| name.clone()).collect());
                let held = self.replica.held(&names, Clock::System.now());
                Ok(held.iter().filter_map(|grant| stored(grant)).collect())
            }
            Some(names) => {
                let mut all = self.store.list(None).await?;
                all.retain(|grant| names.iter().any(|name| name.as_str() == grant.record.subject));
                Ok(all)
            }
        }
    }

    /// Every grant of an index of the register.
    pub(super) async fn entered(&self, index: &Index) -> Result<Vec<Registered>, DeskError> {
        let ids = self.all_of(index).await?;
        self.registered(ids.into_iter()).await
    }

    /// Every id of an index, page by page.
    pub(super) async fn all_of(&self, index: &Index) -> Result<Vec<String>, DeskError> {
        let mut ids = Vec::new();
        let mut before: Option<Place> = None;
        while ids.len() < MAX_LISTED {
            let page = self.store.scan(index, before.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            before = page.last().cloned();
            ids.extend(page.into_iter().map(|(_, id)| id));
            if is_last {
                break;
            }
        }
        Ok(ids)
    }

    /// Rows of the register; those that are gone are left out.
    pub(super) async fn registered(
        &self,
        ids: impl Iterator<Item = String>,
    ) -> Result<Vec<Registered>, DeskError> {
        let rows: Vec<Row> = ids.map(|id| Row::new(Table::Register, id)).collect();
        let mut found = Vec::with_capacity(rows.len());
        for batch in rows.chunks(BATCH) {
            let look = self.store.look(batch).await?;
            // One of another version is logged where it is read, and hides no other.
            found.extend(look.values.iter().flatten().filter_map(|text| parse(text).ok()));
        }
        Ok(found)
    }

    /// Entitlements the caller may know of, and what the caller may do with each.
    ///
    /// # Errors
    /// Policy has failed.
    pub fn entitlements(&self, who: &Identity) -> Result<Vec<Entitlement>, DeskError> {
        let admission = self.admission.current();
        let asking = self.asking(&admission, Some(who), Clock::System.now().wall);
        let mut seen = Vec::new();
        for entitlement in admission.entitlements().iter() {
            let about = About { entitlement: Some(entitlement), ..About::default() };
            if asking.allows(Action::EntitlementView, about)? {
                seen.push(entitlement.clone());
            }
        }
        Ok(seen)
    }

    /// # Errors
    /// There is no such entitlement, or not for this caller.
    pub fn entitlement(&self, who: &Identity, name: &str) -> Result<Entitlement, DeskError> {
        let admission = self.admission.current();
        let asking = self.asking(&admission, Some(who), Clock::System.now().wall);
        asking.entitlement(name).cloned()
    }

    /// Whether the caller may see how others stand.
    ///
    /// # Errors
    /// Policy says no, or has failed.
    pub fn check_explain(&self, who: &Identity, principal: &Principal) -> Result<(), DeskError> {
        let admission = self.admission.current();
        let asking = self.asking(&admission, Some(who), Clock::System.now().wall);
        let target = serde_json::json!({"principal": principal.as_str()});
        let about = About { target: Some(&target), ..About::default() };
        asking.require(Action::AccessExplain, about).map(|_| ())
    }

    /// Entitlements that would cover a request, those that `caller` may ask for first.
    #[must_use]
    pub fn offers(&self, who: &Identity, caller: &Caller, target: &Asked<'_>) -> Vec<Offer> {
        let admission = self.admission.current();
        let asking = self.asking(&admission, Some(who), Clock::System.now().wall);
        // What whoever asks may not know of is not offered.
        let may_know = |entitlement: &Entitlement| {
            let about = About { entitlement: Some(entitlement), ..About::default() };
            asking.allows(Action::EntitlementView, about).unwrap_or(false)
        };
        let covering = admission.entitlements().iter();
        let covering = covering.filter(|entitlement| entitlement.covers(target) && may_know(entitlement));
        let offer = |entitlement: &Entitlement| Offer {
            is_eligible: entitlement.eligible.iter().any(|name| caller.principals().contains(name)),
            entitlement: entitlement.clone(),
        };
        let mut offers: Vec<Offer> = covering.map(offer).collect();
        offers.sort_by_key(|offer| !offer.is_eligible);
        offers
    }
}

fn sees_request(asking: &Asking<'_>, request: &Request) -> Result<bool, DeskError> {
    if asking.sees_all() {
        return Ok(true);
    }
    let entitlement = asking.admission.entitlements().get(&request.entitlement);
    let about = About { entitlement, request: Some(request), ..About::default() };
    asking.allows(Action::RequestView, about)
}

fn sees_grant(asking: &Asking<'_>, grant: &Registered) -> Result<bool, DeskError> {
    if asking.sees_all() {
        return Ok(true);
    }
    let name = grant.record.entitlement.as_deref();
    let entitlement = name.and_then(|name| asking.admission.entitlements().get(name));
    asking.allows(Action::GrantView, About { entitlement, grant: Some(grant), ..About::default() })
}

/// Whether the caller's approval would be taken.
fn can_review(asking: &Asking<'_>, request: &Request, grant: Option<&Registered>) -> Result<bool, DeskError> {
    let (Some(who), State::Pending) = (asking.who, request.state) else { return Ok(false) };
    if request.reviews.iter().any(|review| review.reviewer.name == who.subject.as_str()) {
        return Ok(false);
    }
    let Some(entitlement) = asking.admission.entitlements().get(&request.entitlement) else {
        return Ok(false);
    };
    let mut request = request.clone();
    request.reviews.push(Review {
        reviewer: Party::of(who),
        decision: Decision::Approved,
        reason: String::new(),
        time: asking.now,
        duration: None,
    });
    let about = About { entitlement: Some(entitlement), request: Some(&request), grant, ..About::default() };
    asking.allows(Action::RequestApprove, about)
}

/// A request whose time has run out is expired, also before somebody wrote it down.
fn shown(mut request: Request, now: Timestamp) -> Request {
    if request.state == State::Pending && now >= request.approve_by {
        request.state = State::Expired;
        request.decided = Some(request.approve_by);
    }
    request
}

/// Likewise a grant that has no key any more.
fn known(mut grant: Registered, has_key: bool, now: Timestamp) -> Registered {
    if grant.standing == Standing::Active && !has_key {
        grant.standing = Standing::Ended;
    } else if has_key && !grant.standing.is_open() && now < grant.expires {
        // Somebody wrote its key again.
        grant.standing = Standing::Active;
    }
    grant
}

fn stored(grant: &crate::grant::Grant) -> Option<crate::store::StoredGrant> {
    let record = serde_json::from_str(&grant.document).ok()?;
    Some(crate::store::StoredGrant { record, id: grant.id.clone(), expires_at: grant.lifetime.expires_at })
}

fn place(token: &str) -> Result<Option<Place>, DeskError> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token.split_once('.').and_then(|(at, id)| Some((at.parse::<i64>().ok()?, id.to_owned())));
    parsed.map(Some).ok_or_else(|| DeskError::Invalid("`page_token` is none that was given".to_owned()))
}
