//! `action.http`: one request, with the key that lets the other side drop a second one.

use std::{error::Error as _, time::Instant};

use ledgerline_domain::{
    execution::{ErrorKind, NodeError},
    node::ResolvedHttp,
};
use ledgerline_store::LogLevel;
use reqwest::{Method, Response, StatusCode, header::CONTENT_TYPE};
use serde_json::{Map, Value, json};

use super::Try;
use crate::{
    outbound::{OutboundError, check},
    values::{detailed, excerpt, failure},
};

pub(super) async fn perform(asked: ResolvedHttp, of: &Try) -> Result<Value, NodeError> {
    let begun = Instant::now();
    let max_bytes = usize::try_from(asked.max_response_bytes).unwrap_or(usize::MAX);
    let request = request(&asked, of)?;
    let client = match of.holds_secrets {
        true => &of.equipment.http_with_secrets,
        false => &of.equipment.http,
    };
    let exchange = async {
        let response = client.execute(request).await.map_err(|error| recorded(&error))?;
        let (status, headers) = (response.status(), headers(&response));
        let is_json = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("json"));
        let body = body(response, max_bytes).await?;
        Ok::<_, NodeError>((status, headers, is_json, body))
    };
    let (status, headers, is_json, body) = tokio::select! {
        done = exchange => done?,
        () = of.cancel.cancelled() => return Err(failure(ErrorKind::Cancelled, "it was cancelled")),
    };
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let said = format!(
        "{} {} answered {} in {duration_ms} ms",
        asked.method.as_str(),
        asked.url,
        status.as_u16()
    );
    let expected = if asked.expect_status.is_empty() {
        status.is_success()
    } else {
        asked.expect_status.contains(&status.as_u16())
    };
    of.print(if expected { LogLevel::Info } else { LogLevel::Warning }, &said, None).await;
    if !expected {
        let details =
            json!({"status": status.as_u16(), "body": excerpt(&String::from_utf8_lossy(&body))});
        return Err(detailed(kind_of(status), format!("the server answered {status}"), &details));
    }
    let body = match (is_json, String::from_utf8_lossy(&body)) {
        (true, text) if text.is_empty() => Value::Null,
        (true, text) => serde_json::from_str(&text).map_err(|error| {
            failure(
                ErrorKind::Permanent,
                format!("the body is not the JSON it says to be: {error}"),
            )
        })?,
        (false, text) => Value::String(text.into_owned()),
    };
    Ok(
        json!({"status": status.as_u16(), "headers": headers, "body": body, "duration_ms": duration_ms}),
    )
}

fn request(asked: &ResolvedHttp, of: &Try) -> Result<reqwest::Request, NodeError> {
    let url = check(&asked.url, &of.equipment.settings.reach)
        .map_err(|error| failure(ErrorKind::Permanent, error.to_string()))?;
    let method = Method::from_bytes(asked.method.as_str().as_bytes())
        .map_err(|error| failure(ErrorKind::Validation, error.to_string()))?;
    let mut builder = of.equipment.http.request(method, url).header(
        "Idempotency-Key",
        format!("{}/{}/{}", of.execution, of.path.as_str(), of.attempt.0),
    );
    for (name, value) in &asked.headers {
        builder = builder.header(name, value);
    }
    if !asked.query.is_empty() {
        builder = builder.query(&asked.query);
    }
    builder = match &asked.body {
        None => builder,
        Some(Value::String(text)) => builder.body(text.clone()),
        Some(value) => builder.json(value),
    };
    builder.build().map_err(|error| {
        failure(ErrorKind::Validation, format!("the request can't be made: {error}"))
    })
}

/// Header fields by name; a repeated one's values are joined, as RFC 9110 has it.
fn headers(response: &Response) -> Map<String, Value> {
    let mut all: Map<String, Value> = Map::new();
    for (name, value) in response.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let joined = match all.get(name.as_str()).and_then(Value::as_str) {
            Some(before) => format!("{before}, {value}"),
            None => value,
        };
        all.insert(name.as_str().to_owned(), Value::String(joined));
    }
    all
}

async fn body(mut response: Response, max_bytes: usize) -> Result<Vec<u8>, NodeError> {
    let too_large =
        || failure(ErrorKind::Permanent, format!("the response is larger than {max_bytes} bytes"));
    if response
        .content_length()
        .is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > max_bytes))
    {
        return Err(too_large());
    }
    let mut all = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| recorded(&error))? {
        if all.len() + part.len() > max_bytes {
            return Err(too_large());
        }
        all.extend_from_slice(&part);
    }
    Ok(all)
}

/// What a server may answer better next time (RFC 9110: 408, 429, 5xx; RFC 8470: 425).
fn kind_of(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        408 | 425 | 429 | 500..=599 => ErrorKind::Transient,
        _ => ErrorKind::Permanent,
    }
}

fn recorded(error: &reqwest::Error) -> NodeError {
    let mut source = error.source();
    let mut said = Vec::new();
    while let Some(cause) = source {
        if let Some(outbound) = cause.downcast_ref::<OutboundError>() {
            return failure(ErrorKind::Permanent, outbound.to_string());
        }
        said.push(cause.to_string());
        source = cause.source();
    }
    let kind = if error.is_timeout() {
        ErrorKind::Timeout
    } else if error.is_redirect() || error.is_builder() {
        ErrorKind::Permanent
    } else {
        ErrorKind::Transient
    };
    // The innermost cause says what a person can act on: refused, reset, no such name.
    failure(
        kind,
        format!("the request failed: {}", said.pop().unwrap_or_else(|| error.to_string())),
    )
}
