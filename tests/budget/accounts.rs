//! Several accounts of one registry, which are equal in rights.

use testkit::origin::{Auth, Bearer, User};

use super::*;

const A: User = User::new("a", "s3cret-of-a");
const B: User = User::new("b", "s3cret-of-b");

fn users(origin: &Origin, users: &[User]) {
    origin.require(Auth::Users(users.to_vec()));
}

/// A gateway with both accounts.
fn with_both(origin: &Origin, more: &str) -> Gateway {
    Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", accounts: [\
         {{username: a, password: s3cret-of-a}}, {{username: b, password: s3cret-of-b}}]{more}}}]\n\
         {RULES}{ADMIN}store: {{tag_ttl: 0s}}\n",
        origin.url()
    ))
}

/// The requests that were sent with an account by Basic.
fn sent_with(origin: &Origin, user: &User) -> usize {
    let login = testkit::basic(user.name, user.password);
    let requests = origin.requests();
    let sent = requests
        .iter()
        .filter(|request| request.header("authorization") == Some(&login));
    sent.count()
}

/// Somebody else spends pulls of an account.
fn spend_elsewhere(origin: &Origin, user: &User, pulls: usize) {
    let image = push(origin, "elsewhere", 7);
    let login = testkit::basic(user.name, user.password);
    let mut raw = Raw::connect(&origin.url(), None);
    for _ in 0..pulls {
        let reply = raw.exchange("GET", &image.tag_path(), &[("Authorization", &login)]);
        assert_eq!(reply.status(), 200);
    }
}

#[test]
fn accounts_are_used_in_turn_by_what_is_left() {
    let origin = hub(20);
    users(&origin, &[A, B]);
    let gateway = with_both(&origin, "");
    spend(&origin, &gateway, 8);
    assert_eq!((origin.pulls_left("a"), origin.pulls_left("b")), (16, 16));
    // The one with more left is used until both have the same.
    spend_elsewhere(&origin, &A, 6);
    assert_eq!(origin.pulls_left("a"), 10);
    spend(&origin, &gateway, 8);
    assert!(origin.pulls_left("b") <= 11, "{}", origin.pulls_left("b"));
    let seen = registry(&gateway);
    let left = |name: &str| {
        let accounts = seen["accounts"].as_array().expect("accounts");
        let account = accounts.iter().find(|account| account["name"] == name);
        account.expect("an account")["rate_limit"]["remaining"].clone()
    };
    let both = left("a").as_u64().zip(left("b").as_u64());
    let (a, b) = both.expect("numbers");
    assert_eq!(seen["rate_limit"]["remaining"], a + b);
    assert_eq!(seen["rate_limit"]["limit"], 40);
    for name in ["a", "b"] {
        let series =
            format!("roadstead_ratelimit_limit{{account=\"{name}\",registry=\"docker.io\"}}");
        assert_eq!(metric(&gateway, &series), Some(20.0));
    }
    let page = get(
        gateway.operators("admin.address"),
        None,
        "/api/v1/registries",
    );
    let metrics = get(gateway.operators("admin.address"), None, "/metrics");
    for text in [page.text(), metrics.text(), gateway.log()] {
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn limited_account_is_followed_by_the_next() {
    let origin = Origin::start();
    origin.limit_pulls(quota(5, false));
    users(&origin, &[A, B]);
    let gateway = with_both(&origin, "");
    spend_elsewhere(&origin, &A, 5);
    // The client does not notice.
    spend(&origin, &gateway, 5);
    assert_eq!(origin.pull_totals().refused, 1, "a is held back after that");
    assert_eq!(origin.pulls_left("b"), 0);
    let seen = registry(&gateway);
    assert_eq!(seen["health"], "healthy", "one of both is not limited");
    assert!(seen["accounts"][0]["rate_limit"]["retry_at"].is_string());
    assert!(seen["accounts"][1]["rate_limit"].is_null());
    let image = push(&origin, "app", 1);
    let refused = fetch(&gateway, &image.tag_path());
    assert_eq!(refused.status(), 429);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(registry(&gateway)["health"], "limited");
}

#[test]
fn refused_account_is_passed_over() {
    let (origin, hooks) = (Origin::start(), Origin::start());
    hooks.fault(Fault::status(200).on("POST", "*"));
    users(&origin, &[B]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", accounts: [\
         {{username: a, password: s3cret-of-a}}, {{username: b, password: s3cret-of-b}}]}}]\n\
         {RULES}{ADMIN}store: {{tag_ttl: 0s}}\n\
         events: [{{url: \"{}/hook\", actions: [alert]}}]\n",
        origin.url(),
        hooks.url()
    ));
    let image = push(&origin, "app", 1);
    for _ in 0..3 {
        let reply = fetch(&gateway, &image.tag_path());
        assert!(reply.body == image.manifest, "{reply:?}");
    }
    assert_eq!(sent_with(&origin, &A), 1, "not tried again for a minute");
    let accounts = &registry(&gateway)["accounts"];
    assert_eq!(
        (&accounts[0]["refused"], &accounts[1]["refused"]),
        (&true.into(), &false.into())
    );
    hooks.wait_for("POST", "/hook", 1);
    let event: Value = serde_json::from_slice(&hooks.requests()[0].body).expect("JSON");
    let alert = &event["events"][0]["alert"];
    assert_eq!(alert["kind"], "account_refused");
    assert_eq!(alert["subject"], "docker.io (a)");
    // If both are refused, that is the answer.
    users(&origin, &[]);
    let refused = fetch(&gateway, &image.tag_path());
    assert_eq!(
        (refused.status(), refused.error_code().as_deref()),
        (403, Some("DENIED"))
    );
}

#[test]
fn stats_show_each_account() {
    let origin = hub(20);
    users(&origin, &[B]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", accounts: [\
         {{username: a, password: s3cret-of-a}}, {{username: b, password: s3cret-of-b}}]}}]\n\
         {RULES}admin: {{address: \"unix:admin.sock\"}}\n",
        origin.url()
    ));
    spend(&origin, &gateway, 3);
    let stats = gateway.roadstead(&["stats"]);
    assert!(stats.status.success(), "{stats:?}");
    let text = String::from_utf8(stats.stdout).expect("UTF-8");
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines: Vec<_> = text.lines().map(words).collect();
    for line in [["a", "refused"], ["b", "17"]] {
        assert!(
            lines.iter().any(|found| *found == line),
            "{line:?} in\n{text}"
        );
    }
}

#[test]
fn refusal_is_believed_once_every_account_got_it() {
    for (refusal, status) in [(404, 404), (403, 403), (401, 403)] {
        let origin = Origin::start();
        let blind = |user: User| User {
            repositories: Some(Vec::new()),
            refusal,
            ..user
        };
        let image = push(&origin, "app", 1);
        users(&origin, &[blind(A), B]);
        let gateway = with_both(&origin, ", missing_ttl: 0s");
        for path in [image.tag_path(), image.layer_path(0)] {
            assert_eq!(fetch(&gateway, &path).status(), 200, "{refusal} {path}");
        }
        assert!(sent_with(&origin, &A) > 0);
        let other = push(&origin, "other", 2);
        users(&origin, &[blind(A), blind(B)]);
        assert_eq!(
            fetch(&gateway, &other.tag_path()).status(),
            status,
            "{refusal}"
        );
    }
}

/// What one account does not have, another one that is limited may have.
#[test]
fn refusal_is_not_believed_while_an_account_cannot_be_asked() {
    let origin = Origin::start();
    origin.limit_pulls(quota(5, false));
    let blind = User {
        repositories: Some(vec!["library/elsewhere"]),
        ..B
    };
    users(&origin, &[A, blind]);
    let gateway = with_both(&origin, "");
    spend_elsewhere(&origin, &A, 5);
    let image = push(&origin, "app", 1);
    for _ in 0..2 {
        assert_eq!(fetch(&gateway, &image.tag_path()).status(), 429);
    }
    origin.renew_pulls();
    spend_elsewhere(&origin, &A, 1);
}

#[test]
fn tokens_belong_to_their_account() {
    let origin = hub(20);
    let account = Some((A.name.to_owned(), A.password.to_owned()));
    origin.require(Auth::Bearer(Bearer {
        account,
        more_accounts: vec![(B.name, B.password)],
        ..Bearer::default()
    }));
    let gateway = with_both(&origin, "");
    spend(&origin, &gateway, 4);
    assert_eq!((origin.pulls_left("a"), origin.pulls_left("b")), (18, 18));
    let tokens = origin.requests_for("GET", "/token");
    for user in [&A, &B] {
        let login = testkit::basic(user.name, user.password);
        let own = tokens.iter().filter(|request| {
            let is_own = request.header("authorization") == Some(&login);
            assert!(!is_own || request.query.contains(&format!("account={}", user.name)));
            is_own
        });
        assert!(own.count() > 0, "{}", user.name);
    }
    // The passwords went to the token endpoint alone.
    for request in origin.requests_for("*", "/v2/*") {
        let sent = request.header("authorization").unwrap_or_default();
        assert!(!sent.starts_with("Basic"), "{sent}");
    }
}

/// What passes through is not distributed: an upload may belong to the account that began it.
#[test]
fn requests_that_pass_through_use_the_first_account() {
    let origin = Origin::start();
    users(&origin, &[A, B]);
    let gateway = with_both(&origin, ", cache: false");
    let image = push(&origin, "app", 1);
    for _ in 0..4 {
        assert_eq!(fetch(&gateway, &image.tag_path()).status(), 200);
    }
    assert_eq!((sent_with(&origin, &A), sent_with(&origin, &B)), (4, 0));
}
