//! How often anybody may call: a bucket of tokens for each caller, and for each address that is refused or anonymous.
//! Memory is bounded: of more callers than that, those not seen for longest begin anew with a full bucket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::answer::Refusal;
use crate::clock::BootTime;
use crate::principal::Principal;

/// Buckets of each of two generations. Some hundred bytes each, so a few MiB at most.
const MAX_BUCKETS: usize = 8192;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub per_second: u32,
    pub burst: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Caller(Principal),
    Refused(IpAddr),
    Health(IpAddr),
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: BootTime,
}

/// What was touched since the generation began, and what was in the one before.
#[derive(Default)]
struct Generations {
    young: HashMap<Key, Bucket>,
    old: HashMap<Key, Bucket>,
}

pub struct Buckets {
    limit: RateLimit,
    generations: Mutex<Generations>,
}

impl Buckets {
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        Self { limit, generations: Mutex::default() }
    }

    /// # Errors
    /// The caller has to wait.
    pub fn take_call(&self, caller: &Principal, now: BootTime) -> Result<(), Refusal> {
        self.take(Key::Caller(caller.clone()), now)
    }

    /// # Errors
    /// Nobody at this address is told any more why.
    pub fn take_refusal(&self, address: IpAddr, now: BootTime) -> Result<(), Refusal> {
        self.take(Key::Refused(network(address)), now)
    }

    /// # Errors
    /// The address has to wait.
    pub fn take_health(&self, address: IpAddr, now: BootTime) -> Result<(), Refusal> {
        self.take(Key::Health(network(address)), now)
    }

    #[must_use]
    pub fn has_refusals_left(&self, address: IpAddr, now: BootTime) -> bool {
        let key = Key::Refused(network(address));
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = generations.young.get(&key).or_else(|| generations.old.get(&key));
        bucket.is_none_or(|bucket| self.filled(*bucket, now) >= 1.0)
    }

    fn filled(&self, bucket: Bucket, now: BootTime) -> f64 {
        let gained = now.since(bucket.at).as_secs_f64() * f64::from(self.limit.per_second);
        (bucket.tokens + gained).min(f64::from(self.limit.burst))
    }

    fn take(&self, key: Key, now: BootTime) -> Result<(), Refusal> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let known = generations.young.get(&key).or_else(|| generations.old.get(&key)).copied();
        let tokens = known.map_or(f64::from(self.limit.burst), |bucket| self.filled(bucket, now));
        let (left, taken) = if tokens >= 1.0 {
            (tokens - 1.0, Ok(()))
        } else {
            let wait = (1.0 - tokens) / f64::from(self.limit.per_second);
            // Whole seconds, rounded up: that is what `retry-after` has.
            (tokens, Err(Refusal::TooMany(Duration::from_secs_f64(wait.ceil().clamp(1.0, 3600.0)))))
        };
        if !generations.young.contains_key(&key) && generations.young.len() >= MAX_BUCKETS {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, Bucket { tokens: left, at: now });
        taken
    }
}

/// Whoever has an IPv6 address has 2^64 of them.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        IpAddr::V4(address) => IpAddr::V4(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(name: &str) -> Principal {
        format!("user:{name}").parse().unwrap()
    }

    #[test]
    fn a_burst_and_then_so_many_a_second_each() {
        let buckets = Buckets::new(RateLimit { per_second: 2, burst: 3 });
        let at = BootTime::from_millis;
        let (alice, bob) = (principal("alice"), principal("bob"));
        for _ in 0..3 {
            assert_eq!(buckets.take_call(&alice, at(0)), Ok(()));
        }
        let wait = Err(Refusal::TooMany(Duration::from_secs(1)));
        assert_eq!(buckets.take_call(&alice, at(0)), wait);
        assert_eq!(buckets.take_call(&bob, at(0)), Ok(()));
        assert_eq!(buckets.take_call(&alice, at(499)), wait);
        assert_eq!(buckets.take_call(&alice, at(500)), Ok(()));
        assert_eq!(buckets.take_call(&alice, at(500)), wait);
        // No more than a burst is saved up, and a clock that went back takes nothing away.
        for _ in 0..3 {
            assert_eq!(buckets.take_call(&alice, at(60_000)), Ok(()));
        }
        assert_eq!(buckets.take_call(&alice, at(50_000)), wait);
    }

    #[test]
    fn a_network_is_one_caller_and_kinds_of_calls_are_apart() {
        let buckets = Buckets::new(RateLimit { per_second: 1, burst: 1 });
        let now = BootTime::from_millis(0);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(buckets.take_refusal(ip("2001:db8::1"), now), Ok(()));
        assert!(buckets.take_refusal(ip("2001:db8::ffff:1"), now).is_err());
        assert_eq!(buckets.take_refusal(ip("2001:db8:0:1::1"), now), Ok(()));
        assert_eq!(buckets.take_refusal(ip("10.0.0.1"), now), Ok(()));
        assert!(buckets.take_refusal(ip("::ffff:10.0.0.1"), now).is_err());
        assert!(!buckets.has_refusals_left(ip("10.0.0.1"), now));
        assert_eq!(buckets.take_health(ip("10.0.0.1"), now), Ok(()));
        assert!(buckets.has_refusals_left(ip("10.0.0.2"), now));
    }

    #[test]
    fn memory_has_a_bound_and_the_busy_stay_known() {
        let buckets = Buckets::new(RateLimit { per_second: 1, burst: 1 });
        let now = BootTime::from_millis(0);
        let busy = principal("busy");
        buckets.take_call(&busy, now).unwrap();
        for number in 0..u32::try_from(4 * MAX_BUCKETS).unwrap() {
            let address = IpAddr::from(number.to_be_bytes());
            buckets.take_refusal(address, now).unwrap();
            assert!(number % 1000 != 0 || buckets.take_call(&busy, now).is_err());
        }
        let generations = buckets.generations.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 2 * MAX_BUCKETS);
    }
}
