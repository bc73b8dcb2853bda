//! docs/hardening.md has every point, and names tests that exist.

use std::path::Path;
use std::process::Command;

use crate::support::tool;

const POINTS: usize = 37;
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn document() -> String {
    std::fs::read_to_string(Path::new(ROOT).join("docs/hardening.md")).unwrap()
}

/// The sources below a directory, one after another.
fn sources(dir: &Path, text: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

/// The names of tests, and nothing else that is called so.
fn tests() -> Vec<String> {
    let mut text = String::new();
    for dir in ["tests/it", "src"] {
        sources(&Path::new(ROOT).join(dir), &mut text);
    }
    let mut names = Vec::new();
    for part in text.split("#[test]").skip(1).chain(text.split("#[tokio::test").skip(1)) {
        let name = part.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
        names.extend(name.map(str::to_owned));
    }
    names
}

#[test]
fn every_point_is_there_and_names_tests_that_exist() {
    let tests = tests();
    let mut found = Vec::new();
    for line in document().lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let Some(number) = cells.first().and_then(|cell| cell.parse::<usize>().ok()) else { continue };
        assert_eq!(cells.len(), 5, "{line}");
        found.push(number);
        let named: Vec<&str> = cells[4].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "point {number} names no test");
        for name in named {
            assert!(tests.iter().any(|test| test == name), "point {number}: there is no test {name}");
        }
        assert!(cells[1..4].iter().all(|cell| !cell.is_empty()), "{line}");
    }
    assert_eq!(found, (1..=POINTS).collect::<Vec<_>>());
}

/// What the document calls measured was measured on the Envoy that is here.
#[test]
fn the_document_names_the_envoy_that_it_was_tried_on() {
    let Some(envoy) = tool("envoy") else { return };
    let output = Command::new(envoy).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split("version: ").nth(1).and_then(|rest| rest.split('/').nth(1)).unwrap();
    assert!(document().contains(&format!("Envoy {version}")), "{text}");
}

/// The admin port changes what Envoy does: loopback in every configuration.
#[test]
fn no_configuration_shows_its_admin_port() {
    for entry in std::fs::read_dir(Path::new(ROOT).join("envoy")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let rest = text.split("\nadmin:").nth(1).unwrap_or_else(|| panic!("{}", path.display()));
            let admin: String =
                rest.lines().skip(1).take_while(|line| line.starts_with([' ', '#'])).collect();
            assert!(admin.contains("127.0.0.1") && !admin.contains("0.0.0.0"), "{}: {admin}", path.display());
        }
    }
}
