//! The two clocks a decision needs, read once per request and handed in as a value.
//!
//! `boot` counts suspended time (`CLOCK_BOOTTIME`): a laptop or virtual machine that slept for an hour wakes up with
//! its grants an hour older. `Instant` would not, because `CLOCK_MONOTONIC` stops during suspend. `wall` is only
//! compared with times that somebody wrote as a date.

use std::ops::Add;
use std::time::Duration;

use jiff::Timestamp;

/// A moment on `CLOCK_BOOTTIME`. Means nothing outside this machine and this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Time from `earlier` until `self`, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub boot: BootTime,
    pub wall: Timestamp,
}

/// Where `Now` comes from. Tests use [`Clock::Fixed`].
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    System,
    Fixed(Now),
}

impl Clock {
    #[must_use]
    pub fn now(self) -> Now {
        match self {
            Self::System => Now { boot: boot_time(), wall: Timestamp::now() },
            Self::Fixed(now) => now,
        }
    }
}

fn boot_time() -> BootTime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    BootTime(Duration::new(seconds, nanos))
}
