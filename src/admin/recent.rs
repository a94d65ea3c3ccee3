//! `/api/v1/requests` and `/api/v1/errors`: what clients asked for lately, and what was denied or failed.

use http::Method;
use serde::Serialize;

use super::error::Problem;
use super::query::{Parameters, StatusFilter, Words};
use super::report::Page;
use super::time::rfc3339;
use super::{Admin, ExplainRequest};
use gateway::{AccessRecord, FailureKind, FailureRecord};
use mirror::ImageReference;
use oci::name::Registry;

/// An item of `GET /api/v1/requests`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RequestLine {
    pub id: u64,
    at: String,
    client: String,
    user: String,
    method: String,
    path: String,
    registry: Option<String>,
    repository: Option<String>,
    status: u16,
    sent_bytes: u64,
    duration_seconds: f64,
    cache_status: Option<String>,
    upstream: Option<String>,
    explain: Option<ExplainRequest>,
}

/// An item of `GET /api/v1/errors`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct FailureLine {
    pub id: u64,
    kind: &'static str,
    first_at: String,
    last_at: String,
    pub count: u64,
    status: u16,
    code: &'static str,
    client: Option<String>,
    user: Option<String>,
    refused_user: Option<String>,
    registry: Option<String>,
    repository: Option<String>,
    reference: Option<String>,
    action: &'static str,
    reason: String,
    explain: Option<ExplainRequest>,
}

/// A client that is sent to the v1 API.
const OLD_CLIENT: &str = "docker-1.5";

/// Which lines of the access log are wanted.
#[derive(Clone, Debug)]
pub(super) struct RequestFilter {
    words: Words,
    status: StatusFilter,
}

impl RequestFilter {
    /// # Errors
    /// 400 for a wrong `status`.
    pub fn of(parameters: &Parameters) -> Result<Self, Problem> {
        Ok(Self {
            words: parameters.words(),
            status: parameters.status()?,
        })
    }

    fn includes(&self, record: &AccessRecord) -> bool {
        self.status.includes(record.status)
            && self.words.match_any(&[
                &client(record).unwrap_or_default(),
                record.user(),
                record.method.as_str(),
                &record.path,
                record.registry().map_or("", Registry::as_str),
                &record.status.to_string(),
                &cache(record).unwrap_or_default(),
            ])
    }
}

impl Admin {
    /// # Errors
    /// 400 for a wrong parameter.
    pub(super) fn requests(&self, parameters: &Parameters) -> Result<Page<RequestLine>, Problem> {
        let filter = RequestFilter::of(parameters)?;
        let (limit, before) = (parameters.limit()?, parameters.after_number()?);
        let records = self.history.requests.since(0);
        let is_before = |id: u64| before.is_none_or(|before| id < before);
        let matching = records
            .iter()
            .rev()
            .filter(|(id, record)| is_before(*id) && filter.includes(record));
        let lines = matching.map(|(id, record)| self.request_line(*id, record));
        Ok(page(lines.take(limit + 1).collect(), limit, |line| line.id))
    }

    /// The newest lines after number `after` that match, at most `most`.
    pub(super) fn requests_since(
        &self,
        after: u64,
        filter: &RequestFilter,
        most: usize,
    ) -> Newest<RequestLine> {
        let records = self.history.requests.since(after);
        let newest = newest(&records, after, most, |record| filter.includes(record));
        let lines = newest.items.into_iter();
        Newest {
            items: lines
                .map(|(id, record)| self.request_line(*id, record))
                .collect(),
            skipped: newest.skipped,
            last: newest.last,
        }
    }

    /// # Errors
    /// 400 for a wrong parameter.
    pub(super) fn errors(&self, parameters: &Parameters) -> Result<Page<FailureLine>, Problem> {
        let kinds = [
            ("", None),
            ("denial", Some(FailureKind::Denial)),
            ("error", Some(FailureKind::Error)),
        ];
        let kind = parameters.choice("kind", &kinds)?;
        let (limit, before) = (parameters.limit()?, parameters.after_number()?);
        let words = parameters.words();
        let failures = self.history.failures();
        let matching = failures.iter().rev().filter(|failure| {
            kind.is_none_or(|kind| failure.kind == kind)
                && before.is_none_or(|before| failure.id < before)
        });
        let lines = matching.map(failure_line);
        let lines = lines.filter(|line| line.matches(&words));
        Ok(page(lines.take(limit + 1).collect(), limit, |line| line.id))
    }

    fn request_line(&self, id: u64, record: &AccessRecord) -> RequestLine {
        let upstream = record.upstream.as_ref();
        RequestLine {
            id,
            at: rfc3339(record.ended),
            client: client(record).unwrap_or_else(|| "-".to_owned()),
            user: record.user().to_owned(),
            method: record.method.to_string(),
            path: record.path.to_string(),
            registry: record.registry().map(ToString::to_string),
            repository: repository(record),
            status: record.status,
            sent_bytes: record.sent_bytes,
            duration_seconds: record.took.as_secs_f64(),
            cache_status: cache(record),
            upstream: upstream.map(|registry| self.mirror.upstream_of(registry).to_owned()),
            explain: same_pull(record),
        }
    }
}

/// The newest of some numbered values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Newest<T> {
    /// Oldest first.
    pub items: Vec<T>,
    /// How many were left out: matching ones that are older, and all that were forgotten before they were looked at.
    pub skipped: u64,
    /// The number of the last value, whether it matches or not.
    pub last: u64,
}

/// The newest values after number `after` that match, at most `most`. Numbers are consecutive.
fn newest<T>(
    values: &[(u64, T)],
    after: u64,
    most: usize,
    matches: impl Fn(&T) -> bool,
) -> Newest<&(u64, T)> {
    let last = values.last().map_or(after, |(number, _)| *number);
    let forgotten = last
        .saturating_sub(after)
        .saturating_sub(values.len() as u64);
    let mut items: Vec<_> = values.iter().filter(|(_, value)| matches(value)).collect();
    let older = items.len().saturating_sub(most);
    items.drain(..older);
    Newest {
        items,
        skipped: forgotten + older as u64,
        last,
    }
}

/// A page of at most `limit` lines; one line more says that there is a next page.
fn page<T>(mut lines: Vec<T>, limit: usize, id: impl Fn(&T) -> u64) -> Page<T> {
    let has_more = lines.len() > limit;
    lines.truncate(limit);
    let last = lines.last().filter(|_| has_more);
    Page {
        next: last.map(|line| id(line).to_string()),
        items: lines,
        total: None,
    }
}

fn client(record: &AccessRecord) -> Option<String> {
    record.client()
}

fn cache(record: &AccessRecord) -> Option<String> {
    Some(record.cache?.parameters().to_string())
}

fn repository(record: &AccessRecord) -> Option<String> {
    Some(record.repository()?.repository.to_string())
}

/// A failure as the API writes it.
pub(super) fn failure_line(failure: &FailureRecord) -> FailureLine {
    let request = &failure.request;
    FailureLine {
        id: failure.id,
        kind: match failure.kind {
            FailureKind::Denial => "denial",
            FailureKind::Error => "error",
        },
        first_at: rfc3339(failure.first_at),
        last_at: rfc3339(failure.last_at),
        count: failure.count,
        status: request.status,
        code: failure.code.as_str(),
        client: client(request),
        user: request.user.as_deref().map(str::to_owned),
        refused_user: failure.refused_user.clone(),
        registry: request.registry().map(ToString::to_string),
        repository: repository(request),
        reference: failure.reference.clone(),
        action: match failure.refused_user {
            Some(_) => "login",
            None => action(&request.method, &request.path),
        },
        reason: failure.reason.clone(),
        explain: same_pull(request),
    }
}

/// The question that an explanation of a request answers; `None` unless it asked for a manifest, or for a v1 tag.
fn same_pull(record: &AccessRecord) -> Option<ExplainRequest> {
    if !matches!(record.method, Method::GET | Method::HEAD) {
        return None;
    }
    let is_v1 = record.path.starts_with("/v1/");
    let place = if is_v1 { "/tags/" } else { "/manifests/" };
    let (_, reference) = record.path.rsplit_once(place)?;
    let image = ImageReference {
        name: record.repository()?.clone(),
        reference: reference.parse().ok()?,
    };
    Some(ExplainRequest {
        image: image.to_string(),
        user: record.user.as_deref().map(str::to_owned),
        client: is_v1.then(|| OLD_CLIENT.to_owned()),
        from: record.client.map(|client| client.ip().to_string()),
        ..ExplainRequest::default()
    })
}

impl FailureLine {
    fn matches(&self, words: &Words) -> bool {
        let optional = |text: &Option<String>| text.clone().unwrap_or_default();
        words.match_any(&[
            &optional(&self.client),
            &optional(&self.user),
            &optional(&self.refused_user),
            &optional(&self.registry),
            &optional(&self.repository),
            &optional(&self.reference),
            self.code,
            self.action,
            &self.status.to_string(),
            &self.reason,
        ])
    }
}

/// What a request wanted.
fn action(method: &Method, path: &str) -> &'static str {
    let is_list =
        path.ends_with("/tags/list") || path.ends_with("/_catalog") || path == "/v1/search";
    match *method {
        _ if path == "/token" || path == "/v2/" || path == "/v1/users/" => "login",
        Method::DELETE => "delete",
        Method::PUT | Method::POST | Method::PATCH => "push",
        _ if is_list => "list",
        _ => "pull",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::name::{NameScope, RepositoryName};

    #[test]
    fn actions_of_requests() {
        for (method, path, expected) in [
            ("GET", "/v2/", "login"),
            ("POST", "/token", "login"),
            ("GET", "/v2/a/manifests/b", "pull"),
            ("HEAD", "/v2/a/blobs/b", "pull"),
            ("GET", "/v2/a/tags/list", "list"),
            ("GET", "/v2/_catalog", "list"),
            ("PUT", "/v2/a/manifests/b", "push"),
            ("DELETE", "/v2/a/manifests/b", "delete"),
        ] {
            let method = method.parse().expect("a method");
            assert_eq!(action(&method, path), expected, "{path}");
        }
    }

    fn question(method: &str, path: &str) -> Option<(String, Option<String>)> {
        let registry = Registry::new("docker.io");
        let name = RepositoryName::new(&registry, &"a/b".parse().expect("a name"));
        let asked = same_pull(&AccessRecord {
            ended: std::time::SystemTime::UNIX_EPOCH,
            client: Some("[2001:db8::1]:5000".parse().expect("an address")),
            user: None,
            method: method.parse().expect("a method"),
            path: path.into(),
            scope: Some(NameScope::Repository(name)),
            status: 200,
            sent_bytes: 0,
            took: std::time::Duration::ZERO,
            cache: None,
            upstream: None,
        })?;
        assert_eq!(asked.from.as_deref(), Some("2001:db8::1"));
        Some((asked.image, asked.client))
    }

    #[test]
    fn manifests_and_v1_tags_can_be_explained() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = |text: &str| Some((format!("docker.io/a/b{text}"), None));
        let old = Some(("docker.io/a/b:1".to_owned(), Some("docker-1.5".to_owned())));
        for (method, path, expected) in [
            ("GET", "/v2/a/b/manifests/1", image(":1")),
            ("HEAD", "/v2/x/manifests/manifests/1", image(":1")),
            (
                "GET",
                &*format!("/v2/a/b/manifests/{digest}"),
                image(&format!("@{digest}")),
            ),
            ("GET", "/v1/repositories/a/b/tags/1", old),
            ("GET", "/v1/repositories/a/b/tags", None),
            ("GET", "/v2/a/b/tags/list", None),
            ("GET", "/v2/a/b/manifests/%3Cscript%3E", None),
            ("GET", "/v2/a/b/manifests/", None),
            ("GET", &*format!("/v2/a/b/blobs/{digest}"), None),
            ("PUT", "/v2/a/b/manifests/1", None),
            ("DELETE", "/v2/a/b/manifests/1", None),
        ] {
            assert_eq!(question(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn newest_values_count_what_is_left_out() {
        let values: Vec<(u64, u64)> = (4..=9).map(|number| (number, number)).collect();
        for (after, most, items, skipped) in [
            (3, 9, &[4, 6, 8][..], 0),
            (3, 2, &[6, 8], 1),
            (3, 0, &[], 3),
            // The values 2 and 3 were forgotten.
            (1, 9, &[4, 6, 8], 2),
            (1, 1, &[8], 4),
        ] {
            let newest = newest(&values, after, most, |value| value % 2 == 0);
            let found: Vec<u64> = newest.items.iter().map(|(number, _)| *number).collect();
            let expected = (items.to_vec(), skipped, 9);
            assert_eq!(
                (found, newest.skipped, newest.last),
                expected,
                "{after} {most}"
            );
        }
        let none = newest(&[] as &[(u64, ())], 7, 3, |()| true);
        assert_eq!((none.items.len(), none.skipped, none.last), (0, 0, 7));
    }

    #[test]
    fn pages_name_the_next_one() {
        let number = |line: &u64| *line;
        let whole = page(vec![9, 8], 2, number);
        assert_eq!((whole.items, whole.next), (vec![9, 8], None));
        let part = page(vec![9, 8, 7], 2, number);
        assert_eq!((part.items, part.next), (vec![9, 8], Some("8".to_owned())));
    }
}
