//! Networks and addresses, with Go's reading of them: an IPv4 address inside IPv6 is an IPv4 address. Nothing here
//! asks the network.

#![allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regorus::Value;
use regorus::value::Set;

use super::values::{MAX_ITEMS, items};
use super::{Builtin, Fault, Outcome, binary, text, unary};

pub const BUILTINS: [Builtin; 8] = [
    binary("net.cidr_contains", contains),
    binary("net.cidr_overlap", contains),
    binary("net.cidr_intersects", intersects),
    binary("net.cidr_contains_matches", contains_matches),
    unary("net.cidr_expand", expand),
    unary("net.cidr_is_valid", |value| {
        Ok(Value::Bool(value.as_string().is_ok_and(|text| network(text).is_some())))
    }),
    unary("net.cidr_merge", merge),
    unary("net.lookup_ip_addr", lookup),
];

/// Pairs that are compared: of two lists of one request, their product.
const MAX_PAIRS: usize = 1 << 22;
/// `::ffff:0:0`, before every IPv4 address.
const IPV4: u128 = 0xffff << 32;
const IPV4_BITS: u32 = 32;
const IPV6_BITS: u32 = 128;

/// Addresses as 128 bits, IPv4 ones inside IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    first: u128,
    last: u128,
}

fn is_ipv4(address: u128) -> bool {
    address >> 32 == IPV4 >> 32
}

impl Network {
    /// `prefix` counts from the start of 128 bits.
    fn new(address: u128, prefix: u32) -> Self {
        let hosts = u128::MAX.checked_shr(prefix).unwrap_or(0);
        Self { first: address & !hosts, last: address | hosts }
    }

    fn has(self, address: u128) -> bool {
        is_ipv4(self.first) == is_ipv4(address) && (self.first..=self.last).contains(&address)
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = (self.first ^ self.last).leading_zeros();
        let prefix = if is_ipv4(self.first) { prefix.saturating_sub(IPV6_BITS - IPV4_BITS) } else { prefix };
        write!(f, "{}/{prefix}", shown(self.first))
    }
}

fn shown(address: u128) -> IpAddr {
    Ipv6Addr::from_bits(address).to_canonical()
}

fn address(text: &str) -> Option<u128> {
    match text.parse().ok()? {
        IpAddr::V4(address) => Some(IPV4 | u128::from(address.to_bits())),
        IpAddr::V6(address) => Some(address.to_bits()),
    }
}

fn network(text: &str) -> Option<Network> {
    let (host, prefix) = text.split_once('/')?;
    let bits = match host.parse().ok()? {
        IpAddr::V4(_) => IPV4_BITS,
        IpAddr::V6(_) => IPV6_BITS,
    };
    let is_number = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = prefix.parse::<u32>().ok().filter(|prefix| is_number && *prefix <= bits)?;
    Some(Network::new(address(host)?, prefix + IPV6_BITS - bits))
}

fn wanted(value: &Value) -> Result<Network, Fault> {
    let text = text(1, value)?;
    network(text).ok_or_else(|| Fault::failed(format!("invalid CIDR address: {text}")))
}

/// A network, or an address as the network of itself.
fn either(value: &Value) -> Result<Network, Fault> {
    let text = text(1, value)?;
    let found =
        address(text).map(|address| Network { first: address, last: address }).or_else(|| network(text));
    found.ok_or_else(|| {
        Fault::failed(format!("not a valid textual representation of an IP address or CIDR: {text}"))
    })
}

fn contains(whole: &Value, part: &Value) -> Outcome {
    let (whole, part) = (wanted(whole)?, either(part)?);
    Ok(Value::Bool(whole.has(part.first) && whole.has(part.last)))
}

fn intersects(a: &Value, b: &Value) -> Outcome {
    let (a, b) = (wanted(a)?, wanted(b)?);
    Ok(Value::Bool(a.has(b.first) || b.has(a.first)))
}

/// Networks by what stands for them in the answer: a text for itself, items by their index or themselves, members by
/// their key.
fn indexed(position: usize, value: &Value) -> Result<Vec<(&Value, Value)>, Fault> {
    fn network(position: usize, value: &Value) -> Result<&Value, Fault> {
        match value {
            Value::String(_) => Ok(value),
            Value::Array(items) if !items.is_empty() => Ok(items.first().unwrap_or(value)),
            _ => Err(Fault::failed(format!("operand {position}: element must be string or non-empty array"))),
        }
    }
    match value {
        Value::String(_) => Ok(vec![(value, value.clone())]),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| Ok((network(position, item)?, Value::from(index))))
            .collect(),
        Value::Set(items) => items.iter().map(|item| Ok((network(position, item)?, item.clone()))).collect(),
        Value::Object(members) => {
            members.iter().map(|(key, value)| Ok((network(position, value)?, key.clone()))).collect()
        }
        _ => Ok(Vec::new()),
    }
}

fn contains_matches(wholes: &Value, parts: &Value) -> Outcome {
    let wholes = indexed(1, wholes)?;
    if wholes.is_empty() {
        return Ok(Value::new_set());
    }
    let parts = indexed(2, parts)?;
    if parts.is_empty() {
        return Ok(Value::new_set());
    }
    if wholes.len().saturating_mul(parts.len()) > MAX_PAIRS {
        return Err(Fault::failed(format!("more than {MAX_PAIRS} pairs to compare")));
    }
    let read = |list: Vec<(&Value, Value)>, parse: fn(&Value) -> Result<Network, Fault>| {
        list.into_iter().map(|(value, name)| Ok((parse(value)?, name))).collect::<Result<Vec<_>, Fault>>()
    };
    let (wholes, parts) = (read(wholes, wanted)?, read(parts, either)?);
    let mut found = Set::new();
    for (whole, name) in &wholes {
        for (_, part) in parts.iter().filter(|(part, _)| whole.has(part.first) && whole.has(part.last)) {
            if found.len() == MAX_ITEMS {
                return Err(Fault::failed(format!("more than {MAX_ITEMS} matches")));
            }
            found.insert(Value::from(vec![name.clone(), part.clone()]));
        }
    }
    Ok(found.into_value())
}

fn expand(value: &Value) -> Outcome {
    let network = wanted(value)?;
    if network.last - network.first >= MAX_ITEMS as u128 {
        return Err(Fault::failed(format!("a network that is expanded has at most {MAX_ITEMS} addresses")));
    }
    let addresses = (network.first..=network.last).map(|address| Value::from(shown(address).to_string()));
    Ok(Value::from(addresses.collect::<BTreeSet<_>>()))
}

/// A network as it is named, and the range of its addresses; no name once it is merged with another.
struct Block {
    range: Network,
    name: Option<String>,
}

fn block(value: &Value) -> Result<Block, Fault> {
    let Value::String(text) = value else { return Err(Fault::failed("element must be string")) };
    if let Some(address) = address(text) {
        // By its class, as networks were once.
        let prefix = match shown(address) {
            IpAddr::V4(address) => class_prefix(address),
            IpAddr::V6(_) => return Err(Fault::failed("IPv6 invalid: needs prefix length")),
        };
        let range = Network::new(address, prefix + IPV6_BITS - IPV4_BITS);
        return Ok(Block { range, name: Some(format!("{}/{prefix}", shown(address))) });
    }
    let range = wanted(value)?;
    Ok(Block { range, name: Some(range.to_string()) })
}

fn class_prefix(address: Ipv4Addr) -> u32 {
    match address.octets().first() {
        Some(0..=0x7f) => 8,
        Some(0x80..=0xbf) => 16,
        _ => 24,
    }
}

fn merge(value: &Value) -> Outcome {
    let items = items(value).ok_or_else(|| Fault::failed("operand must be an array"))?;
    let mut blocks = items.into_iter().map(block).collect::<Result<Vec<_>, _>>()?;
    blocks.sort_by_key(|block| (block.range.last, block.range.first));
    let mut merged: Vec<Block> = Vec::new();
    while let Some(block) = blocks.pop() {
        // From the last to the first: each is merged into what it touches or lies in.
        match merged.last_mut() {
            Some(later) if touches(block.range, later.range) => {
                later.range.first = later.range.first.min(block.range.first);
                later.name = None;
            }
            _ => merged.push(block),
        }
    }
    let mut result = BTreeSet::new();
    for block in merged {
        match block.name {
            Some(name) => {
                result.insert(Value::from(name));
            }
            None => result
                .extend(networks(block.range).into_iter().map(|network| Value::from(network.to_string()))),
        }
    }
    Ok(Value::from(result))
}

fn touches(earlier: Network, later: Network) -> bool {
    let before = if later.first == IPV4 { later.first } else { later.first.saturating_sub(1) };
    before <= earlier.last
}

/// The fewest networks that make up a range.
fn networks(range: Network) -> Vec<Network> {
    let (mut networks, mut first) = (Vec::new(), range.first);
    loop {
        let aligned = u128::MAX.checked_shr(IPV6_BITS - first.trailing_zeros()).unwrap_or(0);
        let mut hosts = aligned;
        while first.checked_add(hosts).is_none_or(|last| last > range.last) {
            hosts >>= 1;
        }
        networks.push(Network { first, last: first + hosts });
        match first.checked_add(hosts).and_then(|last| last.checked_add(1)) {
            Some(next) if next <= range.last => first = next,
            _ => return networks,
        }
    }
}

/// Only what needs no resolver: an answer from one would come when it pleases, while a request waits.
fn lookup(value: &Value) -> Outcome {
    let name = text(1, value)?;
    if let Some(address) = address(name) {
        return Ok(Value::from(BTreeSet::from([Value::from(shown(address).to_string())])));
    }
    if name.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return Ok(Value::from(BTreeSet::from([Value::from("127.0.0.1"), Value::from("::1")])));
    }
    Err(Fault::failed("a decision makes no network calls, so no name is looked up"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(json: &str) -> Value {
        Value::from_json_str(json).unwrap()
    }

    #[test]
    fn ranges_become_the_fewest_networks() {
        let merged = |json: &str| merge(&v(json)).map(|value| value.to_string());
        assert_eq!(merged(r#"["::/0","ff00::1/128"]"#).as_deref(), Ok(r#"["::/0"]"#));
        assert_eq!(merged(r#"["0.0.0.0/1","128.0.0.0/1"]"#).as_deref(), Ok(r#"["0.0.0.0/0"]"#));
        assert_eq!(
            merged(r#"["10.0.0.1/32","10.0.0.2/31"]"#).as_deref(),
            Ok(r#"["10.0.0.1/32","10.0.0.2/31"]"#)
        );
        assert_eq!(merged(r#"["192.168.1.1"]"#).as_deref(), Ok(r#"["192.168.1.1/24"]"#));
        assert!(merged(r#"["::1"]"#).is_err());
        let all = Network { first: 0, last: u128::MAX };
        assert_eq!(networks(all), [all]);
        assert_eq!(networks(Network { first: 1, last: u128::MAX }).len(), 128);
    }

    #[test]
    fn addresses() {
        let has = |whole: &str, part: &str| contains(&Value::from(whole), &Value::from(part));
        assert_eq!(has("10.0.0.0/8", "::ffff:10.1.2.3"), Ok(Value::Bool(true)));
        assert_eq!(has("::/0", "10.1.2.3"), Ok(Value::Bool(false)));
        assert_eq!(has("10.0.0.0/8", "10.1.0.0/16"), Ok(Value::Bool(true)));
        assert!(has("10.0.0.0/8", "x").is_err());
        for bad in
            ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "010.0.0.0/8", "::/129", "fe80::1%eth0/64", "/8"]
        {
            assert!(network(bad).is_none(), "{bad}");
        }
        assert!(expand(&Value::from("0.0.0.0/0")).is_err());
        assert!(expand(&Value::from("::/0")).is_err());
        assert_eq!(expand(&Value::from("10.0.0.3/30")).unwrap().as_set().unwrap().len(), 4);
        assert_eq!(lookup(&Value::from("10.0.0.3")).unwrap().as_set().unwrap().len(), 1);
        assert!(lookup(&Value::from("example.com")).is_err());
    }
}
