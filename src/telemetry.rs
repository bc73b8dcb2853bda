//! Logs, to stderr: stdout belongs to the decision log.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// `info`, or per module: `info,daypass::store=debug`.
    pub level: String,
}

/// Once per process; a second call changes nothing.
pub fn init(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let result = match config.format {
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if result.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            // The payload may quote request data; place and thread are enough to find it.
            let place = panic.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
            tracing::error!(place, thread = std::thread::current().name(), "panic");
        }));
    }
}
