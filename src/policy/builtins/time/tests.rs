use super::*;

fn v(json: &str) -> Value {
    Value::from_json_str(json).unwrap()
}

fn parsed(layout: &str, value: &str) -> Result<i64, Fault> {
    parse_ns(&Value::from(layout), &Value::from(value)).map(|value| value.as_i64().unwrap())
}

fn formatted(time: &str) -> String {
    format(&v(time)).unwrap().as_string().unwrap().to_string()
}

#[test]
fn layouts_are_read() {
    for (layout, value, seconds) in [
        ("RFC3339", "1970-01-01T00:00:01Z", 1),
        ("RFC3339", "1970-01-01T01:00:01+01:00", 1),
        ("2006-01-02", "2017-06-02", 1_496_361_600),
        ("RFC1123Z", "Fri, 02 Jun 2017 19:00:00 -0700", 1_496_455_200),
        ("ANSIC", "Fri Jun  2 19:00:00 2017", 1_496_430_000),
        ("RFC850", "Friday, 02-Jun-17 19:00:00 UTC", 1_496_430_000),
        ("UnixDate", "Fri Jun  2 19:00:00 XYZ 2017", 1_496_430_000),
        ("3:04PM 2006", "12:30AM 1970", 1800),
        ("2006 002", "1972 060", 68_169_600),
        ("Jan _2 2006 at 15h", "feb  3 1970 at 07h", 33 * 86_400 + 7 * 3600),
    ] {
        assert_eq!(parsed(layout, value), Ok(seconds * 1_000_000_000), "{layout} {value}");
    }
    assert_eq!(parsed("RFC3339", "1970-01-01T00:00:00.5Z"), Ok(500_000_000));
    assert_eq!(parsed("15:04:05.000 2006", "00:00:00,123 1970"), Ok(123_000_000));
    for (layout, value) in [
        ("RFC3339", "2017-02-29T00:00:00Z"),
        ("RFC3339", "2017-13-01T00:00:00Z"),
        ("RFC3339", "2017-01-01T24:00:00Z"),
        ("RFC3339", "2017-01-01T00:00:00Zx"),
        ("RFC3339", "2017-01-01T00:00:00+25:00"),
        ("RFC3339", "1066-01-01T00:00:00Z"),
        ("RFC3339", "2017-01-01T00:00:00é"),
        ("2006", "é"),
        ("Jan", "é"),
        ("MST", "é€"),
        ("-07:00", "+é1:0"),
        ("", "x"),
    ] {
        assert!(parsed(layout, value).is_err(), "{layout} {value}");
    }
    let error = parsed("2006-01-02", "x").unwrap_err().to_string();
    assert!(error.ends_with(r#"parsing time "x" as "2006-01-02": cannot parse "x" as "2006""#), "{error}");
}

#[test]
fn layouts_are_written() {
    for (time, wanted) in [
        ("[0, \"\", \"RFC3339Nano\"]", "1970-01-01T00:00:00Z"),
        ("1500000001", "1970-01-01T00:00:01.500000001Z"),
        ("[0, \"America/New_York\", \"UnixDate\"]", "Wed Dec 31 19:00:00 EST 1969"),
        (
            "[0, \"Asia/Kolkata\", \"Monday, January 2 06 03:04:05 pm Z07:00 -07 __2 .000\"]",
            "Thursday, January 1 70 05:30:00 am +05:30 +05   1 .000",
        ),
        ("[0, \"UTC\", \"Month Jan 1 _2006 002\"]", "Month Jan 1 _1970 001"),
        ("[-1, \"UTC\", \"05.999\"]", "59.999"),
        ("[0, \"UTC\", \"é\"]", "é"),
    ] {
        assert_eq!(formatted(time), wanted, "{time}");
    }
    for zone in ["US/Eastern", "EST", "Etc/GMT+5", "GMT", "Europe/Vienna", "Local"] {
        assert!(format(&v(&format!("[0, \"{zone}\"]"))).is_ok(), "{zone}");
    }
    assert!(format(&v("[0, \"us/eastern\"]")).is_err());
    assert!(format(&v("[0, \"Mars/Base\"]")).is_err());
    assert!(format(&v("[0, \"../etc/passwd\"]")).is_err());
    assert!(format(&v("1e300")).is_err());
    assert!(format(&v("[]")).is_err());
}

#[test]
fn dates_move_and_differ() {
    let add = |time: &str, years: i64, months: i64, days: i64| {
        add_date(&[v(time), Value::from(years), Value::from(months), Value::from(days)])
    };
    // 31 January and a month is 3 March, as in Go.
    assert_eq!(add("2592000000000000", 0, 1, 0), Ok(v("5270400000000000")));
    assert_eq!(add("0", -1, 0, 0), Ok(v("-31536000000000000")));
    assert!(add("0", 1000, 0, 0).is_err());
    assert!(add("0", i64::MAX, i64::MIN, i64::MAX).is_err());
    assert!(add(&i64::MAX.to_string(), 0, 0, 1).is_err());
    // Noon stays noon over the change of the clocks.
    let noon = parsed("RFC3339", "2021-03-13T12:00:00-05:00").unwrap();
    let moved = add(&format!("[{noon}, \"America/New_York\"]"), 0, 0, 1);
    assert_eq!(moved, Ok(Value::from(parsed("RFC3339", "2021-03-14T12:00:00-04:00").unwrap())));
    assert_eq!(diff(&v("0"), &v("2592000000000000")).unwrap().to_string(), "[0,0,30,0,0,0]");
    assert_eq!(
        diff(&v("9223372036854775807"), &v("-9223372036854775808")).unwrap().to_string(),
        "[584,6,20,23,34,33]"
    );
}

#[test]
fn durations() {
    let read = |text: &str| parse_duration_ns(&Value::from(text)).map(|value| value.as_i64().unwrap());
    for (text, wanted) in [
        ("1h2m3s", 3_723_000_000_000),
        ("-1.5ms", -1_500_000),
        ("0", 0),
        (".5µs", 500),
        ("1us1ns", 1001),
        ("+5s", 5_000_000_000),
    ] {
        assert_eq!(read(text), Ok(wanted), "{text}");
    }
    for text in ["", "-", "1", "1x", "s", ".s", "1é", "9999999999h", "9223372036854775808ns"] {
        assert!(read(text).is_err(), "{text}");
    }
    assert_eq!(read("-9223372036854775808ns"), Ok(i64::MIN));
}
