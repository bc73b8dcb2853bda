//! The command line: one file per subcommand.

mod grant;
mod policy;
mod serve;
mod status;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ServeArgs;

/// Just-in-time access for Envoy.
///
/// `daypass serve` answers Envoy's ext_authz checks; `daypass grant` gives and ends access, and
/// `daypass policy` is for those who write the rules.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer Envoy's checks, and serve the grant API.
    Serve(Box<ServeArgs>),
    /// Create, show and revoke grants through the grant API.
    Grant(grant::GrantArgs),
    /// Whether a running sidecar can answer, and by which policy.
    Status(status::StatusArgs),
    /// Make, list and remove static tokens of the API.
    Token(token::TokenArgs),
    /// Check, test, evaluate and explain policies.
    Policy(policy::PolicyArgs),
}

/// Exit status of a command that was understood and failed. Usage and configuration errors are 2, as clap's.
const FAILED: u8 = 1;
const BAD_CONFIG: u8 = 2;

impl Cli {
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(args) => serve::run(&args),
            Command::Grant(args) => grant::run(args),
            Command::Status(args) => status::run(&args),
            Command::Token(args) => token::run(args),
            Command::Policy(args) => policy::run(args),
        }
    }
}

/// The whole chain of causes, once.
fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("daypass: {error:#}");
    ExitCode::from(FAILED)
}
