//! `daypass token`: makes, lists and removes static tokens of the API. Works on the file of hashes itself, which the
//! server follows: it must run where the server's data directory is.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::output::{clean, note, print};
use super::report;
use crate::api::tokens::{self, Entry};
use crate::config::default_data_dir;
use crate::principal::Principal;

const DEFAULT_TTL: &str = "90d";
const SECONDS_OF_A_DAY: i64 = 24 * 3600;

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// File of hashes [default: `tokens.yaml` in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// The server's data directory
    #[arg(long, global = true, value_name = "DIR", env = "DAYPASS_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it, once.
    Create(CreateArgs),
    /// List tokens; never what they are.
    Ls,
    /// End a token.
    Rm {
        /// As `ls` shows it
        name: String,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Who calls with it: user:... or workload:...
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Principal,
    /// Groups of the caller: group:...
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<Principal>,
    /// How long it is good: 12h, 90d, or `never` for no end
    #[arg(long, default_value = DEFAULT_TTL, value_name = "TIME")]
    ttl: String,
    /// By what it is listed and removed [default: from the principal]
    #[arg(long)]
    name: Option<String>,
}

pub fn run(args: TokenArgs) -> ExitCode {
    match execute(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn execute(args: TokenArgs) -> anyhow::Result<()> {
    let data_dir = args.data_dir.unwrap_or_else(default_data_dir);
    let path = args.tokens_file.clone().unwrap_or_else(|| tokens::path_in(&data_dir));
    match args.command {
        TokenCommand::Create(create) => {
            if args.tokens_file.is_none() {
                // With the first administrator, or a server that starts later would make none.
                tokens::open(&path, &data_dir)?;
            }
            let token = tokens::generate()?;
            let entry = entry(create, &token, Timestamp::now())?;
            let name = entry.name.clone();
            tokens::edit(&path, |tokens| tokens.add(entry))?;
            // Alone on standard output, for `TOKEN=$(daypass token create ...)`.
            print(&format!("{token}\n"))
                .with_context(|| format!("nobody has seen the token; `daypass token rm {name}` ends it"))?;
            note(&format!("token {name:?} is good within seconds; it is not shown again"));
        }
        TokenCommand::Ls => {
            let mut text = format!("{:<28} {:<36} {:<22} GROUPS\n", "NAME", "PRINCIPAL", "EXPIRES");
            for entry in tokens::read(&path)?.entries() {
                let groups: Vec<_> = entry.groups.iter().map(Principal::as_str).collect();
                let end = entry.expires_at.map_or_else(|| "never".to_owned(), |end| end.to_string());
                let line =
                    format!("{:<28} {:<36} {end:<22} {}", entry.name, entry.principal, groups.join(","));
                text.push_str(&clean(&line));
                text.push('\n');
            }
            print(&text)?;
        }
        TokenCommand::Rm { name } => {
            tokens::remove(&path, &data_dir, &name)?;
            note(&format!("token {name:?} ends within seconds"));
        }
    }
    Ok(())
}

fn entry(create: CreateArgs, token: &str, now: Timestamp) -> anyhow::Result<Entry> {
    let CreateArgs { principal, groups, ttl, name } = create;
    ensure!(
        !principal.is_group(),
        "{principal}: a token belongs to a user or a workload; groups go to --group"
    );
    if let Some(other) = groups.iter().find(|group| !group.is_group()) {
        bail!("{other} is no group");
    }
    let sha256 = tokens::hash(token);
    let name = match name {
        Some(name) => {
            ensure!(
                !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control()),
                "a name has no spaces and is not empty"
            );
            name
        }
        None => default_name(&principal, &sha256),
    };
    let expires_at = lifetime(&ttl)?
        .map(|ttl| now.checked_add(ttl).with_context(|| format!("{ttl:#} is too long")))
        .transpose()?;
    // As it is written: no token needs nanoseconds.
    let expires_at = expires_at.and_then(|end| Timestamp::from_second(end.as_second()).ok());
    Ok(Entry { name, sha256, principal, groups, expires_at })
}

/// `user:ci@corp` -> `ci-corp-1f2e3d`: readable, and another for each token.
fn default_name(principal: &Principal, sha256: &[u8; 32]) -> String {
    let name = principal.as_str().split_once(':').map_or("", |(_, name)| name);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().take(20).map(plain).collect();
    let digits: String = data_encoding::HEXLOWER.encode(sha256).chars().take(6).collect();
    format!("{}-{digits}", name.trim_matches('-'))
}

/// As other durations, and in days. None: without an end.
fn lifetime(text: &str) -> anyhow::Result<Option<SignedDuration>> {
    if text == "never" {
        return Ok(None);
    }
    let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok());
    let parsed = match days {
        Some(days) => days.checked_mul(SECONDS_OF_A_DAY).map(SignedDuration::from_secs),
        None => text.parse().ok(),
    };
    match parsed.filter(SignedDuration::is_positive) {
        Some(lifetime) => Ok(Some(lifetime)),
        None => bail!("{text:?} is not a time; write 12h, 90d or never"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        let seconds = |text| lifetime(text).unwrap().map(|found| found.as_secs());
        assert_eq!(seconds("90d"), Some(90 * SECONDS_OF_A_DAY));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("never"), None);
        for bad in ["", "0d", "-1d", "d", "soon", "0s", "9999999999999999999d", "1000000000000000d "] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_plain() {
        let name = |principal: &str| default_name(&principal.parse().unwrap(), &[0xab; 32]);
        assert_eq!(name("user:CI@corp"), "ci-corp-ababab");
        assert_eq!(name("workload:spiffe://td/ns/x"), "spiffe---td-ns-x-ababab");
    }
}
