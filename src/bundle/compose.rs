//! All bundles together, offered to whoever compiles them, one candidate at a time.
//!
//! New bundles that arrive together are offered together. If that is refused, each is offered alone beside those in
//! use, so that one bad bundle does not keep out the others, and each gets the verdict that is its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::config::Source;
use super::{Bundle, BundleError, Manifest, archive};
use crate::policy::{Data, Sources};

/// A bundle that was read and verified, and whoever waits to hear whether it is used.
#[derive(Debug)]
pub struct Arrival {
    new: Loaded,
    /// Parsed already; it is taken by the first candidate that it is in.
    bundle: Option<Bundle>,
    verdict: oneshot::Sender<Result<(), BundleError>>,
}

/// What is kept of a bundle. Its data is not: parsed, it takes many times the archive's size, and compiled policy has
/// its own.
#[derive(Debug, Clone)]
struct Loaded {
    source: Arc<Source>,
    manifest: Manifest,
    archive: Arc<[u8]>,
}

impl Arrival {
    pub fn new(
        source: Arc<Source>,
        bundle: Bundle,
        archive: Arc<[u8]>,
        verdict: oneshot::Sender<Result<(), BundleError>>,
    ) -> Self {
        let manifest = bundle.manifest.clone();
        Self { new: Loaded { source, manifest, archive }, bundle: Some(bundle), verdict }
    }

    fn name(&self) -> &str {
        &self.new.source.name
    }

    fn settle(self, verdict: Result<(), BundleError>) {
        // Nobody waits any more when the tasks are ended.
        _ = self.verdict.send(verdict);
    }
}

/// Every bundle there is, of which at least one is new, waiting to be compiled.
#[derive(Debug)]
pub struct Candidate {
    /// Modules and data of all of them; manifests are in `data.system.bundles`, as in OPA.
    pub sources: Sources,
    /// By the bundle's name.
    pub revisions: BTreeMap<String, Option<String>>,
    /// Bundles that are configured and have not arrived yet. Policy may need them.
    pub missing: Vec<String>,
    pub verdict: Verdict,
}

/// Must be given. One that is dropped counts as a refusal.
#[derive(Debug)]
#[must_use = "the bundles are not active until they are accepted"]
pub struct Verdict(oneshot::Sender<Result<(), String>>);

impl Verdict {
    /// The candidate is what requests are decided by from now on.
    pub fn accept(self) {
        _ = self.0.send(Ok(()));
    }

    /// It does not compile; what was in use stays in use.
    pub fn reject(self, reason: impl Into<String>) {
        _ = self.0.send(Err(reason.into()));
    }
}

/// Where candidates come from.
#[derive(Debug)]
pub struct Candidates(mpsc::Receiver<Candidate>);

impl Candidates {
    /// None when the bundles have ended.
    pub async fn next(&mut self) -> Option<Candidate> {
        self.0.recv().await
    }
}

pub(super) fn start(
    tasks: &mut JoinSet<()>,
    names: Vec<String>,
    queue: mpsc::Receiver<Arrival>,
) -> Candidates {
    let (offers, candidates) = mpsc::channel(1);
    let composer = Composer { names, active: BTreeMap::new(), offers };
    tasks.spawn(composer.run(queue));
    Candidates(candidates)
}

struct Composer {
    names: Vec<String>,
    active: BTreeMap<String, Loaded>,
    offers: mpsc::Sender<Candidate>,
}

impl Composer {
    async fn run(mut self, mut queue: mpsc::Receiver<Arrival>) {
        while let Some(first) = queue.recv().await {
            let mut arrivals = vec![first];
            while let Ok(arrival) = queue.try_recv() {
                arrivals.push(arrival);
            }
            self.settle(arrivals).await;
        }
    }

    async fn settle(&mut self, arrivals: Vec<Arrival>) {
        let mut arrivals = self.without_conflicts(arrivals);
        if arrivals.len() > 1 {
            if self.offer(&mut arrivals).await.is_ok() {
                return self.accept(arrivals);
            }
            tracing::warn!("bundles that came together were refused; each is tried alone");
        }
        for arrival in arrivals {
            for mut arrival in self.without_conflicts(vec![arrival]) {
                match self.offer(std::slice::from_mut(&mut arrival)).await {
                    Ok(()) => self.accept(vec![arrival]),
                    Err(error) => arrival.settle(Err(error)),
                }
            }
        }
    }

    fn accept(&mut self, arrivals: Vec<Arrival>) {
        for arrival in arrivals {
            self.active.insert(arrival.name().to_owned(), arrival.new.clone());
            arrival.settle(Ok(()));
        }
    }

    /// Refuses those that own what another one owns. Of two new ones the first by name stays.
    fn without_conflicts(&self, mut arrivals: Vec<Arrival>) -> Vec<Arrival> {
        arrivals.sort_by(|one, other| one.name().cmp(other.name()));
        let mut kept: Vec<Arrival> = Vec::new();
        let replaced: Vec<String> = arrivals.iter().map(|arrival| arrival.name().to_owned()).collect();
        for arrival in arrivals {
            let in_use =
                self.active.iter().filter(|(name, _)| !replaced.contains(name)).map(|(_, loaded)| loaded);
            let mut others = in_use.chain(kept.iter().map(|arrival| &arrival.new));
            let conflict = others.find_map(|other| conflict(&arrival.new, other));
            match conflict {
                None => kept.push(arrival),
                Some(message) => arrival.settle(Err(BundleError::Conflict(message))),
            }
        }
        kept
    }

    async fn offer(&self, arrivals: &mut [Arrival]) -> Result<(), BundleError> {
        let mut parts: BTreeMap<String, (Loaded, Option<Bundle>)> =
            self.active.iter().map(|(name, loaded)| (name.clone(), (loaded.clone(), None))).collect();
        for arrival in arrivals {
            parts.insert(arrival.name().to_owned(), (arrival.new.clone(), arrival.bundle.take()));
        }
        let missing = self.names.iter().filter(|name| !parts.contains_key(*name)).cloned().collect();
        let revisions = parts
            .iter()
            .map(|(name, (loaded, _))| (name.clone(), loaded.manifest.revision.clone()))
            .collect();
        let sources = tokio::task::spawn_blocking(move || compose(parts.into_values()))
            .await
            .map_err(|error| BundleError::Content(error.to_string()))??;
        let (verdict, decided) = oneshot::channel();
        let candidate = Candidate { sources, revisions, missing, verdict: Verdict(verdict) };
        let nobody = || BundleError::Activation("nobody takes bundles any more".to_owned());
        self.offers.send(candidate).await.map_err(|_| nobody())?;
        match decided.await {
            Ok(verdict) => verdict.map_err(BundleError::Activation),
            Err(_) => Err(BundleError::Activation("whoever compiles it gave up".to_owned())),
        }
    }
}

fn conflict(one: &Loaded, other: &Loaded) -> Option<String> {
    one.manifest.roots.iter().find_map(|root| {
        let theirs = other.manifest.roots.iter().find(|theirs| theirs.overlaps(root))?;
        let (one, other) = (&one.source.name, &other.source.name);
        Some(format!("bundles {one:?} and {other:?} own overlapping roots: {root} and {theirs}"))
    })
}

fn compose(parts: impl Iterator<Item = (Loaded, Option<Bundle>)>) -> Result<Sources, BundleError> {
    let mut sources = Sources::default();
    let mut manifests = Data::default();
    for (loaded, bundle) in parts {
        let source = &loaded.source;
        let bundle = match bundle {
            Some(bundle) => bundle,
            None => {
                archive::read(&source.name, &loaded.archive, source.limits, source.verification.as_ref())?
            }
        };
        sources.modules.extend(bundle.modules);
        sources
            .data
            .merge(bundle.data)
            .map_err(|place| BundleError::Conflict(format!("{place} is set by two bundles")))?;
        manifests.set(&[source.name.as_str(), "manifest"], bundle.manifest.document);
    }
    // What a bundle that owns all of `data` says itself comes before what is said of it.
    sources.data.set_default(&["system", "bundles"], manifests.into_document());
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::super::config::{Origin, Polling};
    use serde_json::json;

    use super::*;

    type Answer = oneshot::Receiver<Result<(), BundleError>>;

    fn arrival(name: &str, roots: &[&str]) -> (Arrival, Answer) {
        let source = Source {
            name: name.to_owned(),
            origin: Origin::File("/unused".into()),
            persist: false,
            polling: Polling::default(),
            verification: None,
            limits: archive::Limits::default(),
        };
        let manifest = json!({"revision": name, "roots": roots}).to_string();
        let manifest = Manifest::parse(manifest.as_bytes()).unwrap();
        let bundle = Bundle { manifest, modules: Vec::new(), data: Data::default() };
        let (verdict, answer) = oneshot::channel();
        // Read again only if it was offered before, which it never is here.
        (Arrival::new(Arc::new(source), bundle, Arc::from([].as_slice()), verdict), answer)
    }

    fn started(names: &[&str]) -> (JoinSet<()>, mpsc::Sender<Arrival>, Candidates) {
        let mut tasks = JoinSet::new();
        let (arrivals, queue) = mpsc::channel(names.len());
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let candidates = start(&mut tasks, names, queue);
        (tasks, arrivals, candidates)
    }

    #[tokio::test]
    async fn what_arrives_together_is_offered_together() {
        let (_tasks, arrivals, mut candidates) = started(&["a", "b", "c"]);
        let ((a, a_answer), (b, b_answer)) = (arrival("a", &["a"]), arrival("b", &["b"]));
        arrivals.try_send(b).unwrap();
        arrivals.try_send(a).unwrap();
        let candidate = candidates.next().await.unwrap();
        assert_eq!(candidate.revisions.into_keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(candidate.missing, ["c"]);
        let data: serde_json::Value =
            serde_json::from_str(&candidate.sources.data.to_json().unwrap()).unwrap();
        assert_eq!(data["system"]["bundles"]["b"]["manifest"], json!({"revision": "b", "roots": ["b"]}));
        candidate.verdict.accept();
        assert_eq!((a_answer.await.unwrap(), b_answer.await.unwrap()), (Ok(()), Ok(())));
    }

    #[tokio::test]
    async fn of_two_new_ones_that_own_the_same_one_stays() {
        let (_tasks, arrivals, mut candidates) = started(&["a", "b"]);
        let ((a, a_answer), (b, b_answer)) = (arrival("a", &["x/y"]), arrival("b", &["x"]));
        arrivals.try_send(b).unwrap();
        arrivals.try_send(a).unwrap();
        let refused = b_answer.await.unwrap().unwrap_err();
        assert_eq!(refused.to_string(), r#"bundles "b" and "a" own overlapping roots: "x" and "x/y""#);
        candidates.next().await.unwrap().verdict.accept();
        assert_eq!(a_answer.await.unwrap(), Ok(()));
        // Roots may move from one to the other, since they are looked at as they will be.
        let ((a, a_answer), (b, b_answer)) = (arrival("a", &["z"]), arrival("b", &["x"]));
        arrivals.try_send(a).unwrap();
        arrivals.try_send(b).unwrap();
        candidates.next().await.unwrap().verdict.accept();
        assert_eq!((a_answer.await.unwrap(), b_answer.await.unwrap()), (Ok(()), Ok(())));
    }

    #[tokio::test]
    async fn no_verdict_is_a_refusal() {
        let (_tasks, arrivals, mut candidates) = started(&["a"]);
        let (a, answer) = arrival("a", &["a"]);
        arrivals.try_send(a).unwrap();
        drop(candidates.next().await.unwrap());
        assert_eq!(answer.await.unwrap().unwrap_err().code(), "activation");
        drop(candidates);
        let (a, answer) = arrival("a", &["a"]);
        arrivals.try_send(a).unwrap();
        assert_eq!(answer.await.unwrap().unwrap_err().code(), "activation");
    }
}
