//! Events as distribution's notifications (docs/content/about/notifications.md). Pure.

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Builder;

use super::event::{Event, EventAction, EventRequest, EventTarget};
use super::fields::{Fields, Value};
use oci::glob::Pattern;
use oci::name::{Repository, RepositoryName};
use telemetry::alerts::Alert;

/// The action of a notification: distribution's, and `alert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationAction {
    /// A manifest or a blob was sent to a client.
    Pull,
    /// A registry accepted a manifest or a blob.
    Push,
    /// A registry mounted a blob from another repository.
    Mount,
    /// A registry deleted a manifest, a tag or a blob.
    Delete,
    /// The gateway needs its operator.
    Alert,
}

impl NotificationAction {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Pull,
        Self::Push,
        Self::Mount,
        Self::Delete,
        Self::Alert,
    ];

    /// The action of an event's notification; `None`: webhooks get none.
    pub fn of(action: EventAction) -> Option<Self> {
        match action {
            EventAction::Pull => Some(Self::Pull),
            EventAction::Push => Some(Self::Push),
            EventAction::Mount => Some(Self::Mount),
            EventAction::Delete => Some(Self::Delete),
            EventAction::Login
            | EventAction::LoginFailed
            | EventAction::Denied
            | EventAction::Purge
            | EventAction::Pin
            | EventAction::Unpin
            | EventAction::Reload
            | EventAction::Upgrade => None,
        }
    }

    /// Its name in notifications and in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Mount => "mount",
            Self::Delete => "delete",
            Self::Alert => "alert",
        }
    }
}

/// The notifications that an endpoint gets.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Those with one of these actions.
    pub actions: Vec<NotificationAction>,
    /// Those about a repository that one of these matches; `None`: about any. Alerts are about none.
    pub repositories: Option<Vec<Pattern>>,
}

impl Filter {
    /// Whether the endpoint gets a notification.
    pub fn includes(&self, action: NotificationAction, name: Option<&RepositoryName>) -> bool {
        let of_repository = || match (&self.repositories, name) {
            (None, _) | (_, None) => true,
            (Some(patterns), Some(name)) => {
                let name = name.to_string();
                patterns.iter().any(|pattern| pattern.matches(&name))
            }
        };
        self.actions.contains(&action) && of_repository()
    }
}

/// The process that notifications come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The machine.
    pub host: String,
    /// Of this start.
    pub instance: u128,
}

#[derive(Serialize)]
struct Envelope<'a> {
    events: [Notification<'a>; 1],
}

#[derive(Serialize)]
struct Notification<'a> {
    id: String,
    timestamp: String,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Fields<'a, 9>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<Fields<'a, 3>>,
    request: Fields<'a, 5>,
    actor: Fields<'a, 1>,
    source: Fields<'a, 2>,
}

impl Source {
    fn fields(&self) -> Fields<'_, 2> {
        Fields([
            ("addr", Some(self.host.as_str().into())),
            ("instanceID", Some(uuid(self.instance).into())),
        ])
    }
}

/// The body for an event; `id` is its number, random.
pub fn of_event(event: &Event, action: NotificationAction, id: u128, source: &Source) -> Vec<u8> {
    body(Notification {
        id: uuid(id),
        timestamp: timestamp(event.time.into()),
        action: action.as_str(),
        target: event.target.as_ref().map(target_fields),
        alert: None,
        request: request_fields(&event.request),
        actor: Fields([("name", event.request.user.as_deref().map(Value::from))]),
        source: source.fields(),
    })
}

fn target_fields(target: &EventTarget) -> Fields<'_, 9> {
    let digest = target.digest.map(|digest| digest.to_string());
    let from = target.from.as_ref().map(Repository::as_str);
    Fields([
        ("mediaType", target.media_type.as_deref().map(Value::from)),
        ("digest", digest.map(Value::from)),
        ("size", target.size.map(Value::from)),
        ("length", target.size.map(Value::from)),
        ("registry", Some(target.name.registry.as_str().into())),
        ("repository", Some(target.name.repository.as_str().into())),
        ("fromRepository", from.map(Value::from)),
        ("url", target.url.as_deref().map(Value::from)),
        ("tag", target.tag.as_ref().map(|tag| tag.as_str().into())),
    ])
}

/// An alert has an empty request.
fn request_fields(request: &EventRequest) -> Fields<'_, 5> {
    let method = Some(request.method.as_str()).filter(|method| !method.is_empty());
    Fields([
        ("id", request.id.as_deref().map(Value::from)),
        ("addr", request.address.as_deref().map(Value::from)),
        ("host", request.host.as_deref().map(Value::from)),
        ("method", method.map(Value::from)),
        ("useragent", request.user_agent.as_deref().map(Value::from)),
    ])
}

/// The body for an alert; `id` is its number, random.
pub fn of_alert(alert: &Alert, id: u128, source: &Source) -> Vec<u8> {
    let subject = Some(alert.subject.as_str()).filter(|subject| !subject.is_empty());
    body(Notification {
        id: uuid(id),
        timestamp: timestamp(alert.time.into()),
        action: NotificationAction::Alert.as_str(),
        target: None,
        alert: Some(Fields([
            ("kind", Some(alert.kind.as_str().into())),
            ("subject", subject.map(Value::from)),
            ("message", Some(alert.message.as_str().into())),
        ])),
        request: request_fields(&EventRequest::default()),
        actor: Fields([("name", None)]),
        source: source.fields(),
    })
}

fn body(notification: Notification<'_>) -> Vec<u8> {
    let envelope = Envelope {
        events: [notification],
    };
    serde_json::to_vec(&envelope).unwrap_or_default()
}

fn timestamp(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

/// A number as a random UUID (RFC 9562 §5.4).
fn uuid(number: u128) -> String {
    let uuid = Builder::from_random_bytes(number.to_be_bytes());
    uuid.into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use oci::name::Registry;
    use telemetry::alerts::AlertKind;

    const SOURCE: fn() -> Source = || Source {
        host: "gate-1".to_owned(),
        instance: 7,
    };

    fn name(repository: &str) -> RepositoryName {
        let repository = repository.parse().expect("a name");
        RepositoryName::new(&Registry::new("hosted"), &repository)
    }

    #[test]
    fn events_are_notifications_of_distribution() {
        let event = Event {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            action: EventAction::Push,
            request: EventRequest {
                id: Some("7".to_owned()),
                address: Some("[::1]:9".to_owned()),
                host: Some("gate.example.com".to_owned()),
                user: Some("alice".to_owned()),
                user_agent: Some("docker".to_owned()),
                method: "PUT".to_owned(),
            },
            target: Some(EventTarget {
                media_type: Some("a/b".to_owned()),
                size: Some(2),
                url: Some("https://gate.example.com/v2/team/app/manifests/1".to_owned()),
                tag: "1".parse().ok(),
                ..EventTarget::of(name("team/app"))
            }),
            detail: None,
        };
        let body = of_event(&event, NotificationAction::Push, u128::MAX, &SOURCE());
        let expected = concat!(
            r#"{"events":[{"id":"ffffffff-ffff-4fff-bfff-ffffffffffff","timestamp":"2027-01-15T08:00:00Z","action":"push","#,
            r#""target":{"mediaType":"a/b","size":2,"length":2,"registry":"hosted","repository":"team/app","#,
            r#""url":"https://gate.example.com/v2/team/app/manifests/1","tag":"1"},"#,
            r#""request":{"id":"7","addr":"[::1]:9","host":"gate.example.com","method":"PUT","useragent":"docker"},"#,
            r#""actor":{"name":"alice"},"source":{"addr":"gate-1","instanceID":"00000000-0000-4000-8000-000000000007"}}]}"#,
        );
        assert_eq!(String::from_utf8(body).expect("text"), expected);
    }

    #[test]
    fn alerts_have_a_kind_and_words() {
        let alert = Alert {
            time: SystemTime::UNIX_EPOCH,
            kind: AlertKind::DamageFound,
            subject: "sha256:00".to_owned(),
            message: "found \"damage\"".to_owned(),
        };
        let body = of_alert(&alert, 0, &SOURCE());
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let event = &body["events"][0];
        assert_eq!(event["action"], "alert");
        assert_eq!(event["alert"]["kind"], "damage_found");
        assert_eq!(event["alert"]["message"], "found \"damage\"");
        assert_eq!(event.get("target"), None);
    }

    #[test]
    fn filters_select_by_action_and_repository() {
        let pattern = |text: &str| Pattern::parse(text).expect("a pattern");
        let all = Filter {
            actions: NotificationAction::ALL.to_vec(),
            repositories: None,
        };
        let pushes = Filter {
            actions: vec![NotificationAction::Push, NotificationAction::Alert],
            repositories: Some(vec![pattern("hosted/team/**")]),
        };
        let none = Filter {
            actions: Vec::new(),
            repositories: None,
        };
        let (team, other) = (name("team/app"), name("other/app"));
        for (action, name, expected) in [
            (NotificationAction::Push, Some(&team), [true, true, false]),
            (NotificationAction::Push, Some(&other), [true, false, false]),
            (NotificationAction::Pull, Some(&team), [true, false, false]),
            (NotificationAction::Alert, None, [true, true, false]),
        ] {
            let included = [&all, &pushes, &none].map(|filter| filter.includes(action, name));
            assert_eq!(included, expected, "{action:?} {name:?}");
        }
    }
}
