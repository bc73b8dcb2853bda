//! Numbers that look random and come again from the same seed.

pub struct Random(u64);

impl Random {
    /// From the environment, or from the clock; printed, so that a failure can be had again.
    pub fn from_env(name: &str) -> Self {
        let given = std::env::var(name).ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap()
        });
        println!("{name}={seed}");
        Self::new(seed)
    }

    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Marsaglia's xorshift64.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// How long a test that can run for any length does so.
pub fn seconds(name: &str, default: u64) -> std::time::Duration {
    let given = std::env::var(name).ok().and_then(|seconds| seconds.parse().ok());
    std::time::Duration::from_secs(given.unwrap_or(default))
}
