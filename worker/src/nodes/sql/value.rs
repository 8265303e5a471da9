//! What goes into a statement and what comes out of it: JSON on our side, the types of the database on the other.
//!
//! A parameter is sent as text and read by the server as the type that the statement gives it, so every type of the server can be
//! written, its own extensions included. A result comes in the server's binary form, which says exactly what it is.

use std::error::Error;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::BytesMut;
use chrono::{DateTime, Duration, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat};
use serde_json::{Number, Value};
use tokio_postgres::types::{Format, FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};

/// A parameter.
#[derive(Debug)]
pub(super) struct Param<'a>(pub(super) &'a Value);

impl ToSql for Param<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match written(self.0, ty) {
            None => Ok(IsNull::Yes),
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A value as the server reads it; none for null.
fn written(value: &Value, ty: &Type) -> Option<String> {
    let is_json = *ty == Type::JSON || *ty == Type::JSONB;
    Some(match value {
        // JSON's own null is a value of a JSON column only within others.
        Value::Null => return None,
        value if is_json => value.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) if matches!(ty.kind(), Kind::Array(_)) => array(items, ty),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    })
}

/// A list as an array of the server: `{"a","b",NULL}`.
fn array(items: &[Value], ty: &Type) -> String {
    let inner = match ty.kind() {
        Kind::Array(inner) => inner,
        _ => ty,
    };
    let items: Vec<String> = items
        .iter()
        .map(|item| match item {
            // The dimensions of an array stand in its value, not in its type.
            Value::Array(items) if *inner != Type::JSON && *inner != Type::JSONB => {
                array(items, ty)
            }
            item => written(item, inner).map_or_else(
                || "NULL".to_owned(),
                |text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            ),
        })
        .collect();
    format!("{{{}}}", items.join(","))
}

/// A value of a result.
pub(super) struct Found(pub(super) Value);

/// A type that has no JSON of its own.
#[derive(Debug, thiserror::Error)]
#[error(
    "a value of type {0} can't be given as JSON; cast it in the statement, as in `column::text`"
)]
pub(super) struct Unreadable(String);

impl<'a> FromSql<'a> for Found {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        read(ty, raw).map(Self)
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Value::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

type Read<T> = Result<T, Box<dyn Error + Sync + Send>>;

fn read(ty: &Type, raw: &[u8]) -> Read<Value> {
    match ty.kind() {
        Kind::Array(inner) => return read_array(inner, raw),
        Kind::Domain(inner) => return read(inner, raw),
        Kind::Enum(_) => return Ok(Value::String(String::from_sql(&Type::TEXT, raw)?)),
        _ => {}
    }
    Ok(match *ty {
        Type::BOOL => bool::from_sql(ty, raw)?.into(),
        Type::INT2 => i16::from_sql(ty, raw)?.into(),
        Type::INT4 => i32::from_sql(ty, raw)?.into(),
        Type::INT8 => i64::from_sql(ty, raw)?.into(),
        Type::OID => u32::from_sql(ty, raw)?.into(),
        Type::FLOAT4 => float(f64::from(f32::from_sql(ty, raw)?), || {
            f32::from_sql(ty, raw).map(|number| number.to_string()).unwrap_or_default()
        }),
        Type::FLOAT8 => {
            let number = f64::from_sql(ty, raw)?;
            float(number, || number.to_string())
        }
        Type::NUMERIC => decimal(&numeric(raw)?),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::XML => {
            String::from_sql(&Type::TEXT, raw)?.into()
        }
        Type::CHAR => String::from_utf8_lossy(raw).into_owned().into(),
        Type::JSON => serde_json::from_slice(raw)?,
        // The first byte is the version of the form.
        Type::JSONB => serde_json::from_slice(raw.get(1..).unwrap_or_default())?,
        Type::UUID => uuid::Uuid::from_slice(raw)?.to_string().into(),
        Type::BYTEA => BASE64_STANDARD.encode(raw).into(),
        Type::DATE => date(i32_of(raw, 0)?).into(),
        Type::TIME => time(i64_of(raw, 0)?).into(),
        Type::TIMETZ => {
            let west = i32_of(raw, 8)?;
            let (sign, zone) = if west <= 0 { ('+', -west) } else { ('-', west) };
            let zone = format!("{sign}{:02}:{:02}", zone / 3_600, zone % 3_600 / 60);
            format!("{}{zone}", time(i64_of(raw, 0)?)).into()
        }
        Type::TIMESTAMP => timestamp(i64_of(raw, 0)?, false).into(),
        Type::TIMESTAMPTZ => timestamp(i64_of(raw, 0)?, true).into(),
        Type::INTERVAL => interval(i64_of(raw, 0)?, i32_of(raw, 8)?, i32_of(raw, 12)?).into(),
        Type::INET | Type::CIDR => address(raw)?.into(),
        Type::VOID => Value::Null,
        // Text with a case of its own (`citext`) has the form of text, and no number that is known beforehand.
        _ if ty.name() == "citext" => String::from_sql(&Type::TEXT, raw)?.into(),
        _ => return Err(Box::new(Unreadable(ty.name().to_owned()))),
    })
}

/// A number that JSON has, or the word for one that it has not (`NaN`, `inf`).
fn float(number: f64, shortest: impl Fn() -> String) -> Value {
    let text = shortest();
    match text.parse().ok().filter(|_| number.is_finite()).and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::String(text),
    }
}

/// A decimal as a number where a number is exactly it, and as text where it would lose digits.
fn decimal(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return whole.into();
    }
    let canonical = |text: &str| match text.split_once('.') {
        Some((whole, fraction)) => match fraction.trim_end_matches('0') {
            "" => whole.to_owned(),
            fraction => format!("{whole}.{fraction}"),
        },
        None => text.to_owned(),
    };
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    let exact = number.filter(|number| canonical(&number.to_string()) == canonical(text));
    match exact.and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::String(text.to_owned()),
    }
}

fn part<const N: usize>(raw: &[u8], at: usize) -> Read<[u8; N]> {
    let part = raw.get(at..at + N).and_then(|part| part.try_into().ok());
    part.ok_or_else(|| "a value is shorter than its type".into())
}

fn i16_of(raw: &[u8], at: usize) -> Read<i16> {
    Ok(i16::from_be_bytes(part(raw, at)?))
}

fn i32_of(raw: &[u8], at: usize) -> Read<i32> {
    Ok(i32::from_be_bytes(part(raw, at)?))
}

fn i64_of(raw: &[u8], at: usize) -> Read<i64> {
    Ok(i64::from_be_bytes(part(raw, at)?))
}

/// Digits to the base of 10,000, how many of them stand before the point, a sign, and how many decimals are shown.
fn numeric(raw: &[u8]) -> Read<String> {
    let (count, weight) = (i16_of(raw, 0)?, i16_of(raw, 2)?);
    let (sign, scale) = (u16::from_be_bytes(part(raw, 4)?), i16_of(raw, 6)?);
    let sign = match sign {
        0x0000 => "",
        0x4000 => "-",
        0xd000 => return Ok("Infinity".to_owned()),
        0xf000 => return Ok("-Infinity".to_owned()),
        _ => return Ok("NaN".to_owned()),
    };
    let count = usize::try_from(count)?;
    let digits: Vec<i16> = (0..count).map(|at| i16_of(raw, 8 + 2 * at)).collect::<Read<_>>()?;
    let digit = |place: i32| -> i16 {
        let index = usize::try_from(i32::from(weight) - place).ok();
        index.and_then(|index| digits.get(index)).copied().unwrap_or_default()
    };
    let mut text = sign.to_owned();
    if weight < 0 {
        text.push('0');
    }
    for place in (0..=i32::from(weight)).rev() {
        match place == i32::from(weight) {
            true => text.push_str(&digit(place).to_string()),
            false => text.push_str(&format!("{:04}", digit(place))),
        }
    }
    let scale = usize::try_from(scale)?;
    if scale > 0 {
        text.push('.');
        let mut decimals = String::new();
        let mut place = -1;
        while decimals.len() < scale {
            decimals.push_str(&format!("{:04}", digit(place)));
            place -= 1;
        }
        text.push_str(&decimals[..scale]);
    }
    Ok(text)
}

/// Dimensions, whether there are nulls, the type of the items; each dimension's length and first index; then the items.
fn read_array(inner: &Type, raw: &[u8]) -> Read<Value> {
    let dimensions = usize::try_from(i32_of(raw, 0)?)?;
    if dimensions == 0 {
        return Ok(Value::Array(Vec::new()));
    }
    // As the server itself has it.
    if dimensions > 6 {
        return Err("an array has at most 6 dimensions".into());
    }
    let lengths: Vec<usize> = (0..dimensions)
        .map(|dimension| Ok(usize::try_from(i32_of(raw, 12 + 8 * dimension)?)?))
        .collect::<Read<_>>()?;
    let mut at = 12 + 8 * dimensions;
    items(inner, raw, &lengths, &mut at)
}

fn items(inner: &Type, raw: &[u8], lengths: &[usize], at: &mut usize) -> Read<Value> {
    let Some((length, rest)) = lengths.split_first() else {
        let size = i32_of(raw, *at)?;
        *at += 4;
        let Ok(size) = usize::try_from(size) else { return Ok(Value::Null) };
        let item = raw.get(*at..*at + size).ok_or("an array is shorter than it says")?;
        *at += size;
        return read(inner, item);
    };
    let mut list = Vec::new();
    for _ in 0..*length {
        list.push(items(inner, raw, rest, at)?);
    }
    Ok(Value::Array(list))
}

/// The day from which the server counts.
const EPOCH: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date that exists");

fn date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".to_owned(),
        i32::MIN => "-infinity".to_owned(),
        days => EPOCH
            .checked_add_signed(Duration::days(i64::from(days)))
            .map_or_else(|| format!("{days} days after {EPOCH}"), |date| date.to_string()),
    }
}

fn time(micros: i64) -> String {
    let seconds = u32::try_from(micros / 1_000_000).unwrap_or_default();
    let nanos = u32::try_from(micros % 1_000_000).unwrap_or_default() * 1_000;
    // 24:00:00 is a time of the server and of nobody else.
    NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos)
        .map_or_else(|| "24:00:00".to_owned(), |time| time.to_string())
}

fn timestamp(micros: i64, with_zone: bool) -> String {
    let time = match micros {
        i64::MAX => return "infinity".to_owned(),
        i64::MIN => return "-infinity".to_owned(),
        micros => NaiveDateTime::from(EPOCH).checked_add_signed(Duration::microseconds(micros)),
    };
    match time {
        None => format!("{micros} µs after {EPOCH}"),
        Some(time) if with_zone => {
            DateTime::<chrono::Utc>::from_naive_utc_and_offset(time, chrono::Utc)
                .to_rfc3339_opts(SecondsFormat::AutoSi, true)
        }
        Some(time) => time.format("%Y-%m-%dT%H:%M:%S%.f").to_string(),
    }
}

/// A duration of ISO 8601, as Postgres writes it in that style.
fn interval(micros: i64, days: i32, months: i32) -> String {
    let mut text = String::from("P");
    for (count, sign) in [(months / 12, 'Y'), (months % 12, 'M'), (days, 'D')] {
        if count != 0 {
            text.push_str(&format!("{count}{sign}"));
        }
    }
    if micros != 0 {
        text.push('T');
        let (hours, rest) = (micros / 3_600_000_000, micros % 3_600_000_000);
        let (minutes, rest) = (rest / 60_000_000, rest % 60_000_000);
        for (count, sign) in [(hours, 'H'), (minutes, 'M')] {
            if count != 0 {
                text.push_str(&format!("{count}{sign}"));
            }
        }
        if rest != 0 {
            let sign = if rest < 0 { "-" } else { "" };
            let (whole, part) = (rest.abs() / 1_000_000, rest.abs() % 1_000_000);
            let seconds = format!("{sign}{whole}.{part:06}");
            text.push_str(seconds.trim_end_matches('0').trim_end_matches('.'));
            text.push('S');
        }
    }
    if text == "P" { "PT0S".to_owned() } else { text }
}

/// Family, bits of the network, whether it is one, length, address.
fn address(raw: &[u8]) -> Read<String> {
    let [_, bits, _, length] = part::<4>(raw, 0)?;
    let address = match length {
        4 => std::net::IpAddr::from(part::<4>(raw, 4)?),
        16 => std::net::IpAddr::from(part::<16>(raw, 4)?),
        _ => return Err("an address has 4 or 16 bytes".into()),
    };
    Ok(if bits == length * 8 { address.to_string() } else { format!("{address}/{bits}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn decimals_are_numbers_where_they_are_exact() {
        let table = [
            ("1", json!(1)),
            ("-12.50", json!(-12.5)),
            ("0.1", json!(0.1)),
            ("10.00", json!(10.0)),
            ("9007199254740993.1", json!("9007199254740993.1")),
            ("0.1234567890123456789", json!("0.1234567890123456789")),
            ("123456789012345678901234567890", json!("123456789012345678901234567890")),
            ("NaN", json!("NaN")),
            ("Infinity", json!("Infinity")),
        ];
        for (text, expected) in table {
            assert_eq!(decimal(text), expected, "{text}");
        }
    }

    #[test]
    fn lists_are_arrays_with_every_sign_in_its_place() {
        let text = |value: Value, ty: &Type| written(&value, ty).unwrap_or_default();
        assert_eq!(text(json!([1, null, 3]), &Type::INT4_ARRAY), "{\"1\",NULL,\"3\"}");
        assert_eq!(
            text(json!(["a\"b", "c\\d", "NULL", ""]), &Type::TEXT_ARRAY),
            "{\"a\\\"b\",\"c\\\\d\",\"NULL\",\"\"}"
        );
        assert_eq!(
            text(json!([[1, 2], [3, 4]]), &Type::INT4_ARRAY),
            "{{\"1\",\"2\"},{\"3\",\"4\"}}"
        );
        assert_eq!(text(json!([{"a": 1}]), &Type::JSONB), "[{\"a\":1}]");
        assert_eq!(text(json!("x"), &Type::JSONB), "\"x\"");
        assert_eq!(text(json!([{"a": "b"}]), &Type::JSONB_ARRAY), "{\"{\\\"a\\\":\\\"b\\\"}\"}");
        assert_eq!(written(&Value::Null, &Type::TEXT), None);
    }

    #[test]
    fn intervals_and_times_at_their_edges() {
        assert_eq!(interval(0, 0, 0), "PT0S");
        assert_eq!(interval(1_500_000, 3, 14), "P1Y2M3DT1.5S");
        assert_eq!(interval(-90_000_000, 0, 0), "PT-1M-30S");
        assert_eq!(time(86_400_000_000), "24:00:00");
        assert_eq!(timestamp(i64::MAX, true), "infinity");
        assert_eq!(timestamp(0, true), "2000-01-01T00:00:00Z");
        assert_eq!(timestamp(500_000, false), "2000-01-01T00:00:00.500");
        assert_eq!(date(-1), "1999-12-31");
    }

    #[test]
    fn torn_values_are_errors() {
        for ty in [
            Type::NUMERIC,
            Type::INT4_ARRAY,
            Type::TIMESTAMP,
            Type::INET,
            Type::UUID,
            Type::INTERVAL,
        ] {
            for length in 0..7 {
                let raw = vec![0x7f; length];
                assert!(read(&ty, &raw).is_err(), "{ty} of {length} bytes");
            }
        }
    }
}
