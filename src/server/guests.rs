//! The connections that a listener has open, and which of them is given up for a newcomer. Who is known, the gate
//! decides; whoever is not known yet must never keep others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::AbortHandle;

/// Whether a caller of a connection was ever admitted.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<AtomicBool>);

impl Known {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Guest {
    network: IpAddr,
    known: Known,
    task: AbortHandle,
}

/// Those that are there, the oldest first.
pub struct Guests {
    most: usize,
    most_of_network: usize,
    inside: Vec<Guest>,
}

impl Guests {
    #[must_use]
    pub fn new(most: usize, most_of_network: usize) -> Self {
        Self { most, most_of_network, inside: Vec::new() }
    }

    /// Makes room for one more of a network, for which another may have to go. False: there is none to be had.
    pub fn make_room(&mut self, network: IpAddr) -> bool {
        self.inside.retain(|guest| !guest.task.is_finished());
        let own = self.inside.iter().filter(|guest| guest.network == network).count();
        if own >= self.most_of_network && !self.give_up(|guest| guest.network == network) {
            return false;
        }
        if self.inside.len() < self.most {
            return true;
        }
        // Of whoever has most of those that are not known: one network alone cannot push out the rest.
        let Some(crowd) = self.largest_crowd() else { return false };
        self.give_up(|guest| guest.network == crowd)
    }

    pub fn enter(&mut self, network: IpAddr, known: Known, task: AbortHandle) {
        self.inside.push(Guest { network, known, task });
    }

    /// The oldest of these that is not known goes.
    fn give_up(&mut self, of: impl Fn(&Guest) -> bool) -> bool {
        let oldest = self.inside.iter().position(|guest| of(guest) && !guest.known.get());
        let Some(index) = oldest else { return false };
        self.inside.remove(index).task.abort();
        true
    }

    /// The network with most that are not known; of several such, that of the oldest.
    fn largest_crowd(&self) -> Option<IpAddr> {
        let mut crowds: HashMap<IpAddr, usize> = HashMap::new();
        let strangers = || self.inside.iter().filter(|guest| !guest.known.get());
        for guest in strangers() {
            *crowds.entry(guest.network).or_default() += 1;
        }
        let largest = crowds.values().copied().max()?;
        strangers().map(|guest| guest.network).find(|network| crowds.get(network) == Some(&largest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn enter(guests: &mut Guests, last: u8, is_known: bool) -> Option<tokio::task::JoinHandle<()>> {
        if !guests.make_room(ip(last)) {
            return None;
        }
        let task = tokio::spawn(std::future::pending::<()>());
        let known = Known::default();
        if is_known {
            known.set();
        }
        guests.enter(ip(last), known, task.abort_handle());
        Some(task)
    }

    async fn is_gone(task: &tokio::task::JoinHandle<()>) -> bool {
        tokio::task::yield_now().await;
        task.is_finished()
    }

    #[tokio::test]
    async fn the_oldest_stranger_of_the_largest_crowd_goes() {
        let mut guests = Guests::new(5, 4);
        let friend = enter(&mut guests, 1, true).unwrap();
        let single = enter(&mut guests, 2, false).unwrap();
        let crowd: Vec<_> = (0..3).map(|_| enter(&mut guests, 3, false).unwrap()).collect();
        let newcomer = enter(&mut guests, 4, false).unwrap();
        assert!(is_gone(&crowd[0]).await, "the oldest of the crowd");
        for task in [&friend, &single, &crowd[1], &crowd[2], &newcomer] {
            assert!(!is_gone(task).await);
        }
    }

    #[tokio::test]
    async fn the_known_stay_and_a_network_has_its_share() {
        let mut guests = Guests::new(4, 2);
        let own = [enter(&mut guests, 1, true).unwrap(), enter(&mut guests, 1, false).unwrap()];
        let next = enter(&mut guests, 1, true).unwrap();
        assert!(!is_gone(&own[0]).await && is_gone(&own[1]).await);
        assert!(enter(&mut guests, 1, false).is_none(), "all of its share are known");
        let others = [enter(&mut guests, 2, true).unwrap(), enter(&mut guests, 2, true).unwrap()];
        assert!(enter(&mut guests, 3, false).is_none(), "nobody is left to go");
        others[0].abort();
        tokio::task::yield_now().await;
        assert!(enter(&mut guests, 3, false).is_some());
        assert!(!is_gone(&next).await && !is_gone(&others[1]).await);
    }
}
