//! What was found, and where.

use serde_json::{Map, Value as Json, json};

use super::codes::{Code, Severity};

/// Where something stands. What does not apply is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub listener: Option<String>,
    pub filter_chain: Option<String>,
    pub virtual_host: Option<String>,
    pub route: Option<String>,
    pub filter: Option<String>,
    pub cluster: Option<String>,
    /// In the text that was read, if it was YAML.
    pub line: Option<usize>,
}

impl Place {
    #[must_use]
    pub fn listener(name: &str, line: Option<usize>) -> Self {
        Self { listener: Some(name.to_owned()), line, ..Self::default() }
    }

    #[must_use]
    pub fn chain(&self, name: &str, line: Option<usize>) -> Self {
        Self { filter_chain: Some(name.to_owned()), ..self.at(line) }
    }

    #[must_use]
    pub fn filter(&self, name: &str, line: Option<usize>) -> Self {
        Self { filter: Some(name.to_owned()), ..self.at(line) }
    }

    #[must_use]
    pub fn virtual_host(&self, name: &str, line: Option<usize>) -> Self {
        Self { virtual_host: Some(name.to_owned()), ..self.at(line) }
    }

    #[must_use]
    pub fn route(&self, name: &str, line: Option<usize>) -> Self {
        Self { route: Some(name.to_owned()), ..self.at(line) }
    }

    #[must_use]
    pub fn cluster(name: &str, line: Option<usize>) -> Self {
        Self { cluster: Some(name.to_owned()), line, ..Self::default() }
    }

    /// The same, more exactly.
    #[must_use]
    pub fn at(&self, line: Option<usize>) -> Self {
        Self { line: line.or(self.line), ..self.clone() }
    }

    fn parts(&self) -> [(&'static str, &'static str, Option<&String>); 6] {
        [
            ("listener", "listener", self.listener.as_ref()),
            ("filter_chain", "filter chain", self.filter_chain.as_ref()),
            ("virtual_host", "virtual host", self.virtual_host.as_ref()),
            ("route", "route", self.route.as_ref()),
            ("filter", "filter", self.filter.as_ref()),
            ("cluster", "cluster", self.cluster.as_ref()),
        ]
    }

    /// `listener ingress, filter chain 0, route app (line 81)`.
    #[must_use]
    pub fn text(&self) -> String {
        let parts = self.parts().into_iter().filter_map(|(_, word, name)| Some(format!("{word} {}", name?)));
        let text = parts.collect::<Vec<_>>().join(", ");
        match self.line {
            Some(line) if text.is_empty() => format!("line {line}"),
            Some(line) => format!("{text} (line {line})"),
            None => text,
        }
    }

    fn json(&self) -> Json {
        let mut members: Map<String, Json> = self
            .parts()
            .into_iter()
            .filter_map(|(key, _, name)| Some((key.to_owned(), json!(name?))))
            .collect();
        if let Some(line) = self.line {
            members.insert("line".to_owned(), json!(line));
        }
        Json::Object(members)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub code: Code,
    pub place: Place,
    /// What was seen there, if the code does not say it all.
    pub what: String,
}

/// All findings, the worst first, in the order in which they stand in the configuration.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub fn add(&mut self, code: Code, place: &Place, what: impl Into<String>) {
        let finding = Finding { code, place: place.clone(), what: what.into() };
        self.findings.push(finding);
    }

    /// Sorts, and leaves out what was found on more than one way.
    #[must_use]
    pub fn finish(mut self) -> Self {
        let mut seen = std::collections::HashSet::new();
        self.findings.retain(|finding| {
            let place = Place { line: None, ..finding.place.clone() };
            seen.insert((finding.code, place.text(), finding.what.clone()))
        });
        self.findings.sort_by_key(|finding| (std::cmp::Reverse(finding.code.severity()), finding.code));
        self
    }

    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.code.severity() == severity).count()
    }

    /// Nothing is weaker than it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.code.severity() == Severity::Note)
    }

    /// For programs. Codes, severities and the names of members are stable; texts are not.
    #[must_use]
    pub fn json(&self, source: &str) -> Json {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "code": finding.code.name(),
                "severity": finding.code.severity().name(),
                "where": finding.place.json(),
                "what": finding.what,
                "reason": finding.code.why(),
                "fix": finding.code.fix(),
            })
        });
        json!({
            "source": source,
            "summary": {
                "critical": self.count(Severity::Critical),
                "warning": self.count(Severity::Warning),
                "note": self.count(Severity::Note),
            },
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}
