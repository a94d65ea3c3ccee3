//! Decisions: who may do what under which rules, with and without tokens.

use super::*;
use oci::glob::Pattern;

fn repository(name: &str) -> Repository {
    name.parse().expect("valid")
}

fn rule(users: &[&str], repositories: &[&str], actions: &[Action]) -> Rule {
    let users = users.iter().map(|user| match *user {
        "anonymous" => Users::Anonymous,
        "*" => Users::LoggedIn,
        name => Users::Named(name.to_owned()),
    });
    let patterns = repositories.iter();
    Rule {
        users: users.collect(),
        repositories: patterns
            .map(|text| Pattern::parse(text).expect("a pattern"))
            .collect(),
        actions: actions.to_vec(),
    }
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy {
        rules: Some(rules),
        public: BTreeSet::from([Registry::new("docker.io")]),
        delegated: BTreeSet::new(),
    }
}

fn user(name: &str) -> Caller {
    Caller::User(name.into())
}

#[test]
fn without_rules_only_pulls_of_public_registries() {
    let (hub, hosted) = (Registry::new("docker.io"), Registry::new("hosted"));
    let policy = Policy {
        rules: None,
        public: BTreeSet::from([hub.clone()]),
        delegated: BTreeSet::new(),
    };
    let repository = repository("library/alpine");
    let allowed = |action, registry: &Registry| {
        let decision = policy.decide(
            &Caller::Anonymous,
            action,
            &RepositoryName::new(registry, &repository),
        );
        decision.is_ok()
    };
    assert!(allowed(Action::Pull, &hub));
    assert!(!allowed(Action::Push, &hub));
    assert!(!allowed(Action::Delete, &hub));
    assert!(!allowed(Action::Pull, &hosted));
    assert!(policy.is_open(&hub) && !policy.is_open(&hosted));
}

/// The example of the contract, and what is said around it.
#[test]
fn rules_of_the_contract() {
    use Action::{Delete, Pull, Push};
    use Denied::{Anonymous, User};
    let policy = policy(vec![
        rule(&["docker-deployer"], &["hosted/**"], &[Pull, Push, Delete]),
        rule(&["*"], &["**"], &[Pull]),
        rule(&["anonymous"], &["docker.io/**"], &[Pull]),
        rule(&["intern"], &["hosted/intern/*"], &[Push]),
    ]);
    for (caller, action, registry, name, expected) in [
        (user("docker-deployer"), Push, "hosted", "team/app", None),
        (user("docker-deployer"), Delete, "hosted", "team/app", None),
        (
            user("docker-deployer"),
            Push,
            "docker.io",
            "library/x",
            Some(User),
        ),
        (user("other"), Pull, "hosted", "team/app", None),
        (user("other"), Push, "hosted", "team/app", Some(User)),
        // A user may do what an anonymous client may.
        (user("other"), Pull, "docker.io", "library/x", None),
        (Caller::Anonymous, Pull, "docker.io", "library/x", None),
        (
            Caller::Anonymous,
            Push,
            "docker.io",
            "library/x",
            Some(Anonymous),
        ),
        (
            Caller::Anonymous,
            Pull,
            "hosted",
            "team/app",
            Some(Anonymous),
        ),
        // `*` is one component.
        (user("intern"), Push, "hosted", "intern/a", None),
        (user("intern"), Push, "hosted", "intern/a/b", Some(User)),
        (user("intern"), Push, "hosted", "intern", Some(User)),
        (user("intern"), Delete, "hosted", "intern/a", Some(User)),
        // Names are compared whole, and no name matches all users.
        (
            user("docker-deploye"),
            Push,
            "hosted",
            "team/app",
            Some(User),
        ),
        (
            user("Docker-Deployer"),
            Push,
            "hosted",
            "team/app",
            Some(User),
        ),
    ] {
        let decision = policy.decide(
            &caller,
            action,
            &RepositoryName::new(&Registry::new(registry), &repository(name)),
        );
        assert_eq!(
            decision.err(),
            expected,
            "{caller:?} {action:?} {registry}/{name}"
        );
    }
}

#[test]
fn rules_without_a_match_deny() {
    let (hub, name) = (Registry::new("docker.io"), repository("library/alpine"));
    for rules in [
        vec![],
        vec![rule(&[], &["**"], &Action::ALL)],
        vec![rule(&["a"], &[], &Action::ALL)],
        vec![rule(&["a"], &["**"], &[])],
        vec![rule(&["a"], &["hosted/**"], &Action::ALL)],
    ] {
        let policy = policy(rules);
        for action in Action::ALL {
            let decide = |caller: &Caller| {
                policy
                    .decide(caller, action, &RepositoryName::new(&hub, &name))
                    .err()
            };
            assert_eq!(decide(&user("a")), Some(Denied::User));
            assert_eq!(decide(&Caller::Anonymous), Some(Denied::Anonymous));
        }
        assert!(!policy.is_open(&hub));
    }
}

#[test]
fn a_token_only_narrows() {
    let (hosted, name) = (Registry::new("hosted"), repository("a"));
    let policy = policy(vec![
        rule(&["a"], &["**"], &[Action::Pull, Action::Push]),
        rule(&["anonymous"], &["**"], &[Action::Pull]),
    ]);
    let token = |user: Option<&str>, actions: &[Action]| Caller::Narrowed {
        user: user.map(Arc::from),
        actions: actions.iter().copied().collect(),
    };
    for (caller, action, expected) in [
        (token(Some("a"), &[Action::Pull]), Action::Pull, None),
        (
            token(Some("a"), &[Action::Pull]),
            Action::Push,
            Some(Denied::Scope),
        ),
        (token(Some("a"), &Action::ALL), Action::Push, None),
        // A token gives nothing.
        (
            token(Some("a"), &Action::ALL),
            Action::Delete,
            Some(Denied::User),
        ),
        (
            token(Some("b"), &Action::ALL),
            Action::Push,
            Some(Denied::User),
        ),
        (token(None, &[Action::Pull]), Action::Pull, None),
        (token(None, &[]), Action::Pull, Some(Denied::Scope)),
        (
            token(None, &Action::ALL),
            Action::Push,
            Some(Denied::Anonymous),
        ),
    ] {
        let decision = policy.decide(&caller, action, &RepositoryName::new(&hosted, &name));
        assert_eq!(decision.err(), expected, "{caller:?} {action:?}");
    }
}

#[test]
fn granted_is_what_was_asked_for_and_is_allowed() {
    let policy = policy(vec![rule(
        &["anonymous"],
        &["hosted/open/*"],
        &[Action::Pull],
    )]);
    let resolve = |name: &str| {
        let repository = name.parse().ok()?;
        let registry = Registry::new("hosted");
        Some(RepositoryName {
            registry,
            repository,
        })
    };
    let wanted = Scopes::parse([
        "repository:open/a:pull,push repository:closed/a:pull repository:NOT:pull registry:catalog:*",
    ]);
    let granted = policy.granted(&Login::ANONYMOUS, &wanted, resolve);
    assert_eq!(
        granted.to_string(),
        "repository:open/a:pull registry:catalog:*"
    );
}

#[test]
fn grounds_name_the_first_rule_that_allows() {
    let mut policy = policy(vec![
        rule(&["bob"], &["**"], &[Action::Push]),
        rule(&["*"], &["hosted/**"], &[Action::Pull]),
        rule(&["alice"], &["**"], &[Action::Pull, Action::Push]),
    ]);
    let hosted = RepositoryName::new(&Registry::new("hosted"), &repository("a/b"));
    let hub = RepositoryName::new(&Registry::new("docker.io"), &repository("library/alpine"));
    for (caller, action, name, grounds) in [
        (user("alice"), Action::Pull, &hosted, Grounds::Rule(1)),
        (user("alice"), Action::Pull, &hub, Grounds::Rule(2)),
        (user("bob"), Action::Push, &hub, Grounds::Rule(0)),
        (user("bob"), Action::Pull, &hub, Grounds::NoRule),
        (Caller::Anonymous, Action::Pull, &hosted, Grounds::NoRule),
    ] {
        assert_eq!(policy.grounds(&caller, action, name), grounds, "{caller:?}");
        let decided = policy.decide(&caller, action, name);
        assert_eq!(decided.is_ok(), grounds.allows(), "{caller:?}");
    }
    let written = r#"{users: ["*"], repositories: ["hosted/**"], actions: [pull]}"#;
    let rules = policy.rules.take().expect("rules");
    assert_eq!(rules[1].to_string(), written);
    let anonymous = |action, name| policy.grounds(&Caller::Anonymous, action, name);
    assert_eq!(anonymous(Action::Pull, &hub), Grounds::Public);
    assert_eq!(anonymous(Action::Push, &hub), Grounds::NotPublic);
    assert_eq!(anonymous(Action::Pull, &hosted), Grounds::NotPublic);
    policy.delegated.insert(hub.registry.clone());
    let delegated = policy.grounds(&Caller::Anonymous, Action::Pull, &hub);
    assert_eq!(delegated, Grounds::Delegated);
}
