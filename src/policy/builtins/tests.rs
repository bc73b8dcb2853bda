//! Every built-in with values that nobody should give it: none may panic, and none may take its time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use regorus::Value;

use super::families;

/// Far above what any of them takes, unoptimised and on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

fn text() -> impl Strategy<Value = String> {
    let known = [
        "",
        " ",
        "a",
        "é",
        "a.b.c",
        "/a/b/~1",
        "-",
        "*",
        "**",
        "[a-z]+",
        "(?i)^a{2,3}(b|c)*$",
        r"\pL+\d\b",
        "$1${x}$$",
        "{a,b[!c-d]?}",
        "10.0.0.0/8",
        "::/0",
        "::ffff:1.2.3.4/100",
        "1.2.3-a.1+b",
        "1.5Gi",
        "1e999999",
        "100m",
        "-1e5kib",
        "2006-01-02T15:04:05Z07:00",
        "2020-02-29T23:59:60.999999999+24:00",
        "RFC1123",
        "__2 002 .000",
        "MST GMT+3",
        "Europe/Vienna",
        "1h2.5m",
        "-9223372036854775808ns",
        "%v %[2]*.[1]*f %+08.3e %x %q %U %!",
        "%-1000000d",
        "%c",
        "YQ==",
        "-_8",
        "a=1&b=%zz;",
        "{\"a\":[1,2]}",
        "a: &x [1]\nb: *x\n<<: {c: 1}",
        "- - - |\n  x",
        "ff0g",
        "018f0000-0000-1000-8000-000000000000",
        "\u{0}\u{7f}\u{2028}\u{feff}",
        "ßΣİ",
        "[^]a]",
        "a**",
        "(",
        "[",
    ];
    prop_oneof![4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,12}"]
}

fn number() -> impl Strategy<Value = Value> {
    let known = [
        "0",
        "1",
        "-1",
        "2",
        "7",
        "16",
        "64",
        "65536",
        "1.5",
        "-0.5",
        "1e-300",
        "1e300",
        "1e308",
        "9007199254740993",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551616",
        "123456789012345678901234567890",
    ];
    prop::sample::select(known.to_vec()).prop_map(|number| Value::from_numeric_string(number).unwrap())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => text().prop_map(Value::from),
        3 => number(),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let keys = prop_oneof![
            3 => prop::sample::select(vec!["op", "path", "from", "value", "a", "indent", "pretty"]).prop_map(Value::from),
            1 => inner.clone(),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| Value::from(items.into_iter().collect::<BTreeSet<_>>())),
            prop::collection::vec((keys, inner), 0..4)
                .prop_map(|members| Value::from(members.into_iter().collect::<BTreeMap<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn none_panics_and_none_hangs(arguments in prop::collection::vec(value(), 10)) {
        for builtin in families() {
            let started = Instant::now();
            // Rolled by its name, so that not every function has the same arguments.
            let from = builtin.name.len() % 6;
            let arguments = arguments.iter().skip(from).take(builtin.arity.into()).cloned().collect::<Vec<_>>();
            let _ = builtin.call(&arguments);
            prop_assert!(started.elapsed() < LIMIT, "{} {arguments:?}", builtin.name);
        }
    }
}
