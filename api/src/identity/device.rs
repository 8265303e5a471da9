//! What a person calls a device, from what its client calls itself.
//!
//! A list of sessions is read by people, who know "Firefox on Linux" and not `Mozilla/5.0 (X11; …)`. Nothing rests on it: a client may call
//! itself whatever it likes.

/// Words of a user agent, and the browser that they mean. Those that others also say come last: nearly all say Safari.
const BROWSERS: &[(&str, &str)] = &[
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
];

/// The same of systems: Android says Linux too, and an iPhone says Mac OS X.
const SYSTEMS: &[(&str, &str)] = &[
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Macintosh", "Mac"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
];

/// A short name for a client; for one that is no browser the first word of what it calls itself, without its version.
#[must_use]
pub(super) fn device(user_agent: &str) -> Option<String> {
    let named = |names: &[(&str, &'static str)]| {
        names.iter().find(|(word, _)| user_agent.contains(word)).map(|(_, name)| *name)
    };
    if user_agent.starts_with("Mozilla/") {
        return match (named(BROWSERS), named(SYSTEMS)) {
            (Some(browser), Some(system)) => Some(format!("{browser} on {system}")),
            (Some(one), None) | (None, Some(one)) => Some(one.to_owned()),
            (None, None) => None,
        };
    }
    let first = user_agent.split([' ', '/']).next().filter(|word| !word.is_empty())?;
    Some(first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::device;

    #[test]
    fn devices_have_the_names_that_people_know() {
        let chrome = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36";
        for (agent, name) in [
            (chrome, Some("Chrome on Windows")),
            (&format!("{chrome} Edg/126.0"), Some("Edge on Windows")),
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
                Some("Firefox on Linux"),
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
                Some("Safari on iPhone"),
            ),
            (
                "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Mobile Safari/537.36",
                Some("Chrome on Android"),
            ),
            ("curl/8.5.0", Some("curl")),
            ("ledgerline 0.1", Some("ledgerline")),
            ("Mozilla/5.0", None),
            ("", None),
            ("/", None),
        ] {
            assert_eq!(device(agent).as_deref(), name, "{agent}");
        }
    }
}
