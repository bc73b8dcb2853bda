//! The command line: one file per subcommand, over one client of the API. Nothing is printed but by `output`, which knows
//! when it could not.
#![deny(clippy::print_stdout)]

mod access;
mod audit;
mod client;
mod credential;
mod doctor;
mod ensure;
mod events;
mod explain;
mod grant;
mod json;
mod lock;
mod login;
mod output;
mod policy;
mod request;
mod serve;
mod settings;
mod status;
mod token;
mod verify;
mod view;
mod wait;
mod when;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use serde_json::Value;

use crate::config::ServeArgs;
use client::ClientError;

const EXIT_STATUSES: &str = "\
Exit statuses:
  0  done, approved, allowed
  1  failed: the server said no, there is no such thing, a record does not verify, `doctor` found something
  2  the command line or the configuration is wrong
  3  the request was denied; with `explain`, access would be denied
  4  the request expired or was withdrawn
  5  still pending: waiting took longer than --timeout
  6  the API, its store, or with `doctor` Envoy's admin, cannot be reached
130  interrupted while waiting; the request stays pending";

/// Just-in-time access for Envoy.
///
/// Ask for access with `daypass ensure ENTITLEMENT`, decide with `daypass request approve ID`, and see why a request would
/// pass or not with `daypass explain URL`. `daypass serve` answers Envoy's ext_authz checks and serves the API, and
/// `daypass policy` is for those who write the rules.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_long_help = EXIT_STATUSES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Have access: use the grant there is, wait for the request there is, or ask
    Ensure(ensure::EnsureArgs),
    /// Ask for access, look at requests, and decide them
    Request(request::RequestArgs),
    /// Give, show, extend, end and give back access
    Grant(grant::GrantArgs),
    /// Take access at once, in an emergency, where the entitlement lets you
    BreakGlass(access::BreakGlassArgs),
    /// Why a request would pass, or why not and how to ask
    Explain(explain::ExplainArgs),
    /// What there is to ask for
    Entitlements(access::EntitlementsArgs),
    /// Who the API takes you for
    Whoami(access::WhoamiArgs),
    /// Deny a principal, an entitlement or everything, whatever grants there are
    Lock(lock::LockArgs),
    /// End a lock
    Unlock(lock::UnlockArgs),
    /// What happened
    Events(events::EventsArgs),
    /// Verify, export and follow the record of all that happened
    Audit(audit::AuditArgs),
    /// Keep where the API is and who you are for the next commands
    Login(login::LoginArgs),
    /// Forget what `login` kept
    Logout,
    /// Answer Envoy's checks, and serve the API
    Serve(Box<ServeArgs>),
    /// Whether a running sidecar can answer, and by which policy
    Status(status::StatusArgs),
    /// Make, list and remove static tokens of the API
    Token(token::TokenArgs),
    /// Check, test, evaluate and explain policies
    Policy(policy::PolicyArgs),
    /// Say what is wrong with an Envoy configuration, or a running Envoy's
    Doctor(doctor::DoctorArgs),
    /// Print a script that completes commands in a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Usage and configuration errors are 2, as clap's.
const BAD_CONFIG: u8 = Exit::Usage as u8;

/// How a command ended. [`EXIT_STATUSES`] documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Denied = 3,
    /// It expired or was withdrawn.
    NotDecided = 4,
    StillPending = 5,
    Unreachable = 6,
    /// As shells say of a program that SIGINT ended.
    Interrupted = 130,
}

/// What a command prints, and how it ended.
struct Done {
    text: String,
    exit: Exit,
}

impl Done {
    fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), exit: Exit::Done }
    }

    fn json(value: &Value) -> Self {
        Self::text(output::pretty(value))
    }

    /// JSON for programs, or text for people.
    fn either(json: bool, value: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Self {
        if json { Self::json(&value()) } else { Self::text(text()) }
    }

    fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

impl Cli {
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(args) => serve::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Token(args) => token::run(args),
            Command::Policy(args) => policy::run(args),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "daypass", &mut script);
                show(&Done::text(String::from_utf8_lossy(&script)))
            }
            Command::Logout => match login::logout() {
                Ok(done) => show(&done),
                Err(error) => report(&error),
            },
            Command::Doctor(args) => call(doctor::execute(args)),
            command => call(command.execute()),
        }
    }
}

impl Command {
    /// The commands that call the API.
    async fn execute(self) -> anyhow::Result<Done> {
        match self {
            Self::Ensure(args) => ensure::execute(args).await,
            Self::Request(args) => request::execute(args).await,
            Self::Grant(args) => grant::execute(args).await,
            Self::BreakGlass(args) => access::break_glass(args).await,
            Self::Explain(args) => explain::execute(args).await,
            Self::Entitlements(args) => access::entitlements(args).await,
            Self::Whoami(args) => access::whoami(args).await,
            Self::Lock(args) => lock::lock(args).await,
            Self::Unlock(args) => lock::unlock(args).await,
            Self::Events(args) => events::execute(args).await,
            Self::Audit(args) => audit::execute(args).await,
            Self::Login(args) => login::login(args).await,
            Self::Serve(_)
            | Self::Status(_)
            | Self::Token(_)
            | Self::Policy(_)
            | Self::Doctor(_)
            | Self::Completions { .. }
            | Self::Logout => {
                anyhow::bail!("not a command of the API")
            }
        }
    }
}

fn call(command: impl Future<Output = anyhow::Result<Done>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&anyhow::Error::new(error).context("no async runtime")),
    };
    match runtime.block_on(command) {
        Ok(done) => show(&done),
        Err(error) => report(&error),
    }
}

fn show(done: &Done) -> ExitCode {
    match output::print(&done.text) {
        Ok(_) => ExitCode::from(done.exit as u8),
        Err(error) => report(&error.into()),
    }
}

fn report(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(fail(error))
}

/// Says the whole chain of causes, once, and what to exit with.
fn fail(error: &anyhow::Error) -> u8 {
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "daypass: {}", output::clean_lines(&format!("{error:#}")));
    let known = error.chain().find_map(|cause| {
        let client = cause.downcast_ref::<ClientError>().map(ClientError::exit);
        client.or_else(|| cause.downcast_ref::<doctor::DoctorError>().map(doctor::DoctorError::exit))
    });
    known.unwrap_or(Exit::Failed) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }
}
