//! Distinguished names as Go's `pkix.Name`.

use regorus::Value;
use x509_parser::asn1_rs::{Any, Oid, Tag, oid};
use x509_parser::prelude::X509Name;

use super::shape::{self, object, texts};

const ATTRIBUTES: Oid<'static> = oid!(2.5.4);

#[derive(Default)]
pub struct Name {
    common: String,
    serial_number: String,
    country: Vec<String>,
    organization: Vec<String>,
    organizational_unit: Vec<String>,
    locality: Vec<String>,
    province: Vec<String>,
    street_address: Vec<String>,
    postal_code: Vec<String>,
    /// Every attribute, in its order.
    names: Vec<(Value, String)>,
}

impl Name {
    pub fn parse(name: &X509Name) -> Result<Self, String> {
        let mut parsed = Self::default();
        for attribute in name.iter_attributes() {
            let kind = attribute.attr_type();
            let value =
                text(attribute.attr_value()).ok_or("x509: invalid RDNSequence: invalid attribute value")?;
            if let Some([first @ .., last]) = Some(kind.as_bytes())
                && first == ATTRIBUTES.as_bytes()
            {
                match last {
                    3 => parsed.common.clone_from(&value),
                    5 => parsed.serial_number.clone_from(&value),
                    6 => parsed.country.push(value.clone()),
                    7 => parsed.locality.push(value.clone()),
                    8 => parsed.province.push(value.clone()),
                    9 => parsed.street_address.push(value.clone()),
                    10 => parsed.organization.push(value.clone()),
                    11 => parsed.organizational_unit.push(value.clone()),
                    17 => parsed.postal_code.push(value.clone()),
                    _ => {}
                }
            }
            parsed.names.push((shape::oid(kind), value));
        }
        Ok(parsed)
    }

    pub fn shape(&self) -> Value {
        let one = |(kind, value): &(Value, String)| {
            object([("Type", kind.clone()), ("Value", Value::from(value.as_str()))])
        };
        object([
            ("CommonName", Value::from(self.common.as_str())),
            ("SerialNumber", Value::from(self.serial_number.as_str())),
            ("Country", texts(&self.country)),
            ("Organization", texts(&self.organization)),
            ("OrganizationalUnit", texts(&self.organizational_unit)),
            ("Locality", texts(&self.locality)),
            ("Province", texts(&self.province)),
            ("StreetAddress", texts(&self.street_address)),
            ("PostalCode", texts(&self.postal_code)),
            ("Names", shape::list(&self.names, one)),
            ("ExtraNames", Value::Null),
        ])
    }
}

fn text(value: &Any) -> Option<String> {
    let bytes = value.as_bytes();
    match value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString if bytes.is_ascii() => {
            Some(bytes.iter().copied().map(char::from).collect())
        }
        Tag::T61String => Some(bytes.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let units: Vec<u16> = bytes
                .chunks(2)
                .map(|pair| <[u8; 2]>::try_from(pair).map(u16::from_be_bytes))
                .collect::<Result<_, _>>()
                .ok()?;
            Some(String::from_utf16_lossy(units.strip_suffix(&[0]).unwrap_or(&units)))
        }
        _ => None,
    }
}
