//! Whether a certificate is for a host (RFC 6125), by its alternative names alone.

use std::net::IpAddr;

use super::extensions::AlternativeNames;

pub fn matches(names: &AlternativeNames, host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return names.addresses.contains(&address);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    is_host_name(host) && names.dns.iter().any(|pattern| matches_pattern(pattern, host))
}

fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    host.split('.').all(is_label)
}

/// A `*` stands for the whole first label.
fn matches_pattern(pattern: &str, host: &str) -> bool {
    let pattern = pattern.strip_suffix('.').unwrap_or(pattern);
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((_, rest))) => is_host_name(domain) && domain.eq_ignore_ascii_case(rest),
        (Some(_), None) => false,
        (None, _) => pattern.eq_ignore_ascii_case(host),
    }
}
