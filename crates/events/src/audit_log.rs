//! The audit log: a file of its own, one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::num::NonZero;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};

use super::event::Event;
use super::fields::{Fields, Value};

/// RFC 3339 with milliseconds, of one width so that lines sort as text.
const MILLISECONDS: EncodedConfig = Config::DEFAULT
    .set_time_precision(TimePrecision::Second {
        decimal_digits: NonZero::new(3),
    })
    .encode();

/// The file of the audit log, open for appending.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
    /// Whether the file ends within a line, after a write that failed.
    torn: bool,
}

impl AuditLog {
    /// Opens the file, and creates it (mode 0600) with the folders above it.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, torn) = open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            torn,
        })
    }

    /// Reopens the file, for log rotation. Where that fails, the old one stays in use.
    ///
    /// # Errors
    /// The system's.
    pub fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.torn) = open(&self.path)?;
        Ok(())
    }

    /// Appends the line of an event.
    ///
    /// # Errors
    /// The system's: the line is lost.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        let mut line = Vec::with_capacity(512);
        if self.torn {
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, &render(event))?;
        line.push(b'\n');
        let written = self.file.write_all(&line);
        self.torn = written.is_err();
        written
    }
}

/// The file, and whether it ends within a line.
fn open(path: &Path) -> io::Result<(File, bool)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(true).mode(0o600);
    let mut file = options.open(path)?;
    let mut last = [b'\n'];
    // A pipe or a device has no end to look at.
    if file.metadata()?.len() > 0 && file.seek(SeekFrom::End(-1)).is_ok() {
        file.read_exact(&mut last)?;
    }
    Ok((file, last != *b"\n"))
}

/// The line of an event.
fn render(event: &Event) -> Fields<'_, 13> {
    let (request, target) = (&event.request, event.target.as_ref());
    let time = OffsetDateTime::from(event.time).format(&Iso8601::<MILLISECONDS>);
    let digest = target.and_then(|target| target.digest);
    let from = target.and_then(|target| target.from.as_ref());
    let tag = target.and_then(|target| target.tag.as_ref());
    let name = target.map(|target| &target.name);
    Fields([
        ("time", time.ok().map(Value::from)),
        ("action", Some(event.action.as_str().into())),
        ("user", request.user.as_deref().map(Value::from)),
        ("address", request.address.as_deref().map(Value::from)),
        ("user_agent", request.user_agent.as_deref().map(Value::from)),
        ("request_id", request.id.as_deref().map(Value::from)),
        ("method", Some(request.method.as_str().into())),
        ("registry", name.map(|name| name.registry.as_str().into())),
        (
            "repository",
            name.map(|name| name.repository.as_str().into()),
        ),
        ("tag", tag.map(|tag| tag.as_str().into())),
        ("digest", digest.map(|digest| digest.to_string().into())),
        ("from", from.map(|from| from.as_str().into())),
        ("detail", event.detail.as_deref().map(Value::from)),
    ])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::super::event::{EventAction, EventRequest, EventTarget};
    use super::*;
    use oci::name::{Registry, RepositoryName};

    #[test]
    fn times_sort_as_text() {
        let written = [0, 70, 123, 999, 1000].map(|milliseconds| {
            let event = Event {
                time: SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds),
                ..event("")
            };
            serde_json::to_value(render(&event)).expect("JSON")["time"].to_string()
        });
        assert!(written.is_sorted(), "{written:?}");
        assert_eq!(written[1], "\"1970-01-01T00:00:00.070Z\"");
    }

    fn event(detail: &str) -> Event {
        let name = "team/app".parse().expect("a name");
        Event {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_070),
            action: EventAction::Push,
            request: EventRequest {
                id: Some("7".to_owned()),
                address: Some("[::1]:9".to_owned()),
                host: None,
                user: Some("alice".to_owned()),
                user_agent: Some("a\u{1b}\n\"".to_owned()),
                method: "PUT".to_owned(),
            },
            target: Some(EventTarget {
                tag: "1".parse().ok(),
                ..EventTarget::of(RepositoryName::new(&Registry::new("hosted"), &name))
            }),
            detail: Some(detail.to_owned()),
        }
    }

    #[test]
    fn event_is_one_line_of_json() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("var/log/audit.log");
        let mut log = AuditLog::open(&path).expect("writable");
        log.write(&event("x")).expect("writable");
        let expected = r#"{"time":"2027-01-15T08:00:00.070Z","action":"push","user":"alice","address":"[::1]:9","user_agent":"a\u001b\n\"","request_id":"7","method":"PUT","registry":"hosted","repository":"team/app","tag":"1","detail":"x"}"#;
        let written = fs::read_to_string(&path).expect("readable");
        assert_eq!(written, format!("{expected}\n"));
    }

    #[test]
    fn torn_line_is_ended_and_a_renamed_file_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        fs::write(&path, "{\"torn").expect("writable");
        let mut log = AuditLog::open(&path).expect("writable");
        log.write(&event("1")).expect("writable");
        log.write(&event("2")).expect("writable");
        let older = folder.path().join("audit.log.1");
        fs::rename(&path, &older).expect("renamed");
        log.write(&event("3")).expect("writable");
        log.reopen().expect("opened");
        log.write(&event("4")).expect("writable");
        let details = |path: &Path| {
            let text = fs::read_to_string(path).expect("readable");
            let lines = text.lines().map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                Some(line["detail"].as_str()?.to_owned())
            });
            lines.collect::<Vec<_>>()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(details(&older), [None, some("1"), some("2"), some("3")]);
        assert_eq!(details(&path), [some("4")]);
    }
}
