//! `daypass explain`: why a request would pass, or why not and how to ask.

use clap::Args;
use jiff::Timestamp;

use super::client::{Client, ClientError};
use super::output::{Block, clean};
use super::settings::Connection;
use super::when::both;
use super::{Done, Exit, json};
use crate::api::v1;

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct ExplainArgs {
    #[command(flatten)]
    connection: Connection,
    /// Whose access; your own if left out
    #[arg(default_value = "", hide_default_value = true)]
    principal: String,
    /// The request: https://HOST/PATH or HOST/PATH
    #[arg(value_name = "URL", required = true)]
    target: String,
    /// Its method
    #[arg(long, short = 'X', default_value = "GET")]
    method: String,
    /// The address it comes from, for grants with source ranges
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    from: String,
}

pub async fn execute(args: ExplainArgs) -> anyhow::Result<Done> {
    let (host, path) = split(&args.target).ok_or_else(|| {
        ClientError::usage(format!("{:?} has no host; write HOST/PATH or https://HOST/PATH", args.target))
    })?;
    let client = Client::connect(&args.connection).await?;
    let message = v1::ExplainAccessRequest {
        principal: args.principal.clone(),
        host: host.clone(),
        method: args.method.to_ascii_uppercase(),
        path: path.clone(),
        source_address: args.from,
    };
    let asked = format!("{} {host}{path}", message.method);
    let explained = client.explain_access(message).await?;
    let exit = if explained.allowed { Exit::Done } else { Exit::Denied };
    let page = || page(&explained, &asked, &args.principal, Timestamp::now());
    Ok(Done::either(args.connection.json, || json::explanation(&explained), page).exit(exit))
}

/// Host and path, without scheme, query and fragment. The rest is for the server to judge, as it judges checks.
fn split(target: &str) -> Option<(String, String)> {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_host = !host.is_empty() && !host.contains(['@', ' ', '\\']);
    is_host.then(|| (host.to_owned(), format!("/{path}")))
}

fn page(explained: &v1::ExplainAccessResponse, asked: &str, principal: &str, now: Timestamp) -> String {
    let who = match explained.principals.as_slice() {
        [] => principal.to_owned(),
        principals => principals.join(", "),
    };
    let verdict = if explained.allowed { "allowed" } else { "denied" };
    let mut block = Block::new(&format!("{verdict}: {asked}"));
    block.field("who", who).field("why", format!("{} ({})", explained.message, explained.reason).trim());
    if explained.allowed {
        block.field("by grant", &explained.grant).field("until", both(explained.expires_at, now));
    } else {
        block.field("lock", &explained.lock);
    }
    let mut parts = vec![block.render()];
    if !explained.standings.is_empty() {
        parts.push("grants:\n".to_owned());
        for standing in &explained.standings {
            let how = if standing.covers { "covers it" } else { standing.why_not.as_str() };
            let end = both(standing.expires_at, now);
            let end = if end.is_empty() { end } else { format!("; ends {end}") };
            parts.push(format!("  {}\n", clean(&format!("{}: {how}{end}", standing.grant))));
        }
    }
    if explained.offers.is_empty() && !explained.allowed && explained.lock.is_empty() {
        parts.push("no entitlement covers it; `daypass entitlements` lists what there is\n".to_owned());
    }
    if !explained.offers.is_empty() {
        parts.push("what would cover it:\n".to_owned());
        for offer in &explained.offers {
            let description = if offer.description.is_empty() {
                String::new()
            } else {
                format!(" ({})", offer.description)
            };
            let how = match (offer.eligible, offer.approvals_required) {
                (false, _) => "not for this principal".to_owned(),
                (true, 0) => "nobody has to agree".to_owned(),
                (true, 1) => "1 person must agree".to_owned(),
                (true, count) => format!("{count} persons must agree"),
            };
            parts.push(format!("  {}\n", clean(&format!("{}{description}: {how}", offer.entitlement))));
            if offer.eligible && !offer.command.is_empty() {
                parts.push(format!("    {}\n", clean(&offer.command)));
            }
        }
    }
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (target, host, path) in [
            ("https://orders.example/db/x?q=1#f", "orders.example", "/db/x"),
            ("orders.example", "orders.example", "/"),
            ("orders.example:8443/a//b/../c", "orders.example:8443", "/a//b/../c"),
            ("[::1]:80/x", "[::1]:80", "/x"),
            ("orders.example?x=/y", "orders.example", "/"),
        ] {
            assert_eq!(split(target), Some((host.to_owned(), path.to_owned())), "{target}");
        }
        for target in ["", "/db", "https:///db", "user@host/x", "a b/c"] {
            assert_eq!(split(target), None, "{target}");
        }
    }
}
