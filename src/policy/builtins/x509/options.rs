//! Options of `crypto.x509.parse_and_verify_certificates_with_options`.

use std::time::{SystemTime, UNIX_EPOCH};

use regorus::Value;
use regorus::value::Object;

use super::super::Fault;
use super::extensions::SERVER_AUTH;

/// By their numbers in Go's `ExtKeyUsage`.
const KEY_USAGES: [&str; 14] = [
    "KeyUsageAny",
    "KeyUsageServerAuth",
    "KeyUsageClientAuth",
    "KeyUsageCodeSigning",
    "KeyUsageEmailProtection",
    "KeyUsageIPSECEndSystem",
    "KeyUsageIPSECTunnel",
    "KeyUsageIPSECUser",
    "KeyUsageTimeStamping",
    "KeyUsageOCSPSigning",
    "KeyUsageMicrosoftServerGatedCrypto",
    "KeyUsageNetscapeServerGatedCrypto",
    "KeyUsageMicrosoftCommercialCodeSigning",
    "KeyUsageMicrosoftKernelCodeSigning",
];

/// Names held against constraints, for one chain: Go's default.
const MAX_COMPARISONS: usize = 250_000;

pub struct Options {
    /// Empty: any.
    pub dns_name: String,
    /// Nanoseconds since 1970.
    pub now_ns: i128,
    pub usages: Vec<u64>,
    pub max_comparisons: usize,
}

impl Default for Options {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ns = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
        Self { dns_name: String::new(), now_ns, usages: vec![SERVER_AUTH], max_comparisons: MAX_COMPARISONS }
    }
}

impl Options {
    pub fn parse(members: &Object) -> Result<Self, Fault> {
        let mut options = Self::default();
        for (name, value) in members.iter() {
            let Value::String(name) = name else { continue };
            match (&**name, value) {
                ("DNSName", Value::String(dns)) => dns.trim_matches('"').clone_into(&mut options.dns_name),
                ("DNSName", _) => return Err(Fault::failed("'DNSName' should be a string")),
                ("CurrentTime", Value::Number(time)) => {
                    let time = time.as_i64();
                    options.now_ns = time
                        .ok_or_else(|| Fault::failed("'CurrentTime' should be a valid int64 number"))?
                        .into();
                }
                ("CurrentTime", _) => return Err(Fault::failed("'CurrentTime' should be a number")),
                ("MaxConstraintComparisons", Value::Number(count)) => {
                    let count = count.as_i64();
                    let count = count.ok_or_else(|| {
                        Fault::failed("'MaxConstraintComparisons' should be a valid number")
                    })?;
                    // Zero is the default, as in Go, and no option raises it.
                    if let Some(count) = usize::try_from(count).ok().filter(|count| *count > 0) {
                        options.max_comparisons = count.min(MAX_COMPARISONS);
                    }
                }
                ("MaxConstraintComparisons", _) => {
                    return Err(Fault::failed("'MaxConstraintComparisons' should be a number"));
                }
                ("KeyUsages", Value::Array(usages)) => options.set_usages(usages.iter())?,
                ("KeyUsages", Value::Set(usages)) => options.set_usages(usages.iter())?,
                ("KeyUsages", _) => return Err(Fault::failed("'KeyUsages' should be an Array or Set")),
                _ => return Err(Fault::failed("invalid key option")),
            }
        }
        Ok(options)
    }

    fn set_usages<'v>(&mut self, found: impl Iterator<Item = &'v Value>) -> Result<(), Fault> {
        let (mut usages, mut invalid) = (Vec::new(), Vec::new());
        for value in found {
            let Value::String(name) = value else { continue };
            let name = name.trim_matches('"');
            match (0_u64..).zip(KEY_USAGES).find(|(_, known)| *known == name) {
                Some((number, _)) => usages.push(number),
                None => invalid.push(name),
            }
        }
        if !invalid.is_empty() {
            let invalid = invalid.join(" ");
            return Err(Fault::failed(format!("invalid entries for 'KeyUsages' found: [{invalid}]")));
        }
        if !usages.is_empty() {
            self.usages = usages;
        }
        Ok(())
    }
}
