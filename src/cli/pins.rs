//! `pin` and `unpin`: images that stay in the running gateway's store.

use std::fmt::Write as _;
use std::process::ExitCode;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::admin_client::{AdminClient, AdminClientError};
use super::operate::{USAGE, print_result};
use super::show::size;
use crate::admin::{self, Page, Pin, PinRequest};
use crate::config::Config;

/// How many are read at once.
const PAGE: &str = "/api/v1/pins?limit=500";

/// Pins an image, or replaces its note.
pub fn pin(config: &Config, request: &PinRequest) -> ExitCode {
    let pinned = AdminClient::of(config).and_then(|client| client.post("/api/v1/pins", request));
    print_result(pinned, |pinned: Pin| format!("pinned {}", line(&pinned)))
}

/// Exits 2 if that is no image.
pub fn unpin(config: &Config, image: &str) -> ExitCode {
    let name = match admin::image(image, &config.resolver()) {
        Ok(image) => image.to_string(),
        Err(error) => {
            eprintln!("roadstead: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let encoded = utf8_percent_encode(&name, NON_ALPHANUMERIC);
    let path = format!("/api/v1/pins?image={encoded}");
    let unpinned = AdminClient::of(config).and_then(|client| client.delete(&path));
    print_result(unpinned, |()| format!("unpinned {name}\n"))
}

/// Prints the pinned images.
pub fn list(config: &Config) -> ExitCode {
    let pins = AdminClient::of(config).and_then(|client| all(&client));
    print_result(pins, |pins| match pins.as_slice() {
        [] => "no image is pinned\n".to_owned(),
        pins => pins.iter().map(line).collect(),
    })
}

/// All pages of the list.
fn all(client: &AdminClient) -> Result<Vec<Pin>, AdminClientError> {
    let mut pins = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let mut path = PAGE.to_owned();
        if let Some(next) = &next {
            let next = utf8_percent_encode(next, NON_ALPHANUMERIC);
            // Writing to a string does not fail.
            let _ = write!(path, "&after={next}");
        }
        let page: Page<Pin> = client.get(&path)?;
        pins.extend(page.items);
        next = page.next;
        if next.is_none() {
            return Ok(pins);
        }
    }
}

/// The line of an image.
fn line(pin: &Pin) -> String {
    let stored = if pin.cached_bytes < pin.total_bytes {
        format!("{} of {}", size(pin.cached_bytes), size(pin.total_bytes))
    } else {
        size(pin.total_bytes)
    };
    let note = match pin.note.as_str() {
        "" => String::new(),
        note => format!("  {}", note.escape_debug()),
    };
    format!("{}  {stored}{note}\n", pin.image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let pin = |cached_bytes, note: &str| Pin {
            image: "docker.io/library/app:1".into(),
            pinned_at: "2026-11-20T08:00:00Z".into(),
            note: note.into(),
            total_bytes: 2048,
            cached_bytes,
        };
        assert_eq!(
            line(&pin(1024, "base\u{1b}")),
            "docker.io/library/app:1  1.0 KiB of 2.0 KiB  base\\u{1b}\n"
        );
        assert_eq!(line(&pin(2048, "")), "docker.io/library/app:1  2.0 KiB\n");
    }
}
