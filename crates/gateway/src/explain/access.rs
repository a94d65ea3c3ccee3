//! Whether a client may pull, and what decides it.

use super::super::Gateway;
use super::super::target::RequestTarget;
use super::PullQuestion;
use access::{Action, Caller, ForwardedAuthorization, Grounds, Permit};
use oci::name::RepositoryName;

/// Whether a client may pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedAccess {
    /// The client of the question.
    pub own: Judgement,
    /// Whether logins count: not without accounts, and not on a listener that only reads.
    pub has_logins: bool,
    /// The same for a client without a login.
    pub anonymous: Judgement,
    /// The same for a login that no account has; `None` where logins do not count.
    pub unknown_user: Option<Judgement>,
}

/// What is decided about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Who it counts as; `None`: anonymous.
    pub user: Option<String>,
    /// The decision.
    pub verdict: Verdict,
    /// The status of the answer; 200 if it may.
    pub status: u16,
    /// The rule that allows it, as the configuration has it, with its index.
    pub rule: Option<(usize, String)>,
}

/// A decision, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A rule allows it.
    AllowedByRule,
    /// There are no rules, and the registry is public.
    AllowedPublic,
    /// The registry decides for each caller.
    Delegated,
    /// The client is asked to log in: anonymous clients may not.
    Challenged,
    /// The login is refused: there is no such account.
    UnknownUser,
    /// No rule allows it.
    NoRule,
    /// There are no rules, and the registry is not public.
    NotPublic,
}

impl Gateway {
    /// What is decided about a client, and the permit if it may.
    pub(super) async fn judge(
        &self,
        question: &PullQuestion,
        target: &RequestTarget,
    ) -> (ExplainedAccess, Option<Permit>) {
        let name = &target.name;
        let has_logins = self.authenticator().is_some();
        let is_delegated = self.state.policy.delegates_auth(&name.registry);
        let (anonymous, permit) = self.judge_caller(&Caller::Anonymous, name);
        let unknown_user = (has_logins && !is_delegated).then_some(Judgement {
            user: None,
            verdict: Verdict::UnknownUser,
            status: 401,
            rule: None,
        });
        let user = question.user.as_deref().filter(|_| has_logins);
        let (own, permit) = match (user, self.authenticator()) {
            (Some(user), Some(authenticator)) if !is_delegated => {
                if authenticator.has_account(user).await {
                    self.judge_caller(&Caller::User(user.into()), name)
                } else {
                    let refused = unknown_user.clone().unwrap_or_else(|| anonymous.clone());
                    let user = Some(user.to_owned());
                    (Judgement { user, ..refused }, None)
                }
            }
            _ => (anonymous.clone(), permit),
        };
        let access = ExplainedAccess {
            own,
            has_logins,
            anonymous,
            unknown_user,
        };
        (access, permit)
    }

    fn judge_caller(&self, caller: &Caller, name: &RepositoryName) -> (Judgement, Option<Permit>) {
        let policy = &self.state.policy;
        let grounds = policy.grounds(caller, Action::Pull, name);
        let permit = match grounds {
            Grounds::Delegated => policy.delegated_permit(&ForwardedAuthorization::NOTHING, name),
            _ => policy.decide(caller, Action::Pull, name).ok(),
        };
        let is_challenged = caller.user().is_none() && self.challenges();
        let verdict = match grounds {
            Grounds::Delegated => Verdict::Delegated,
            Grounds::Public => Verdict::AllowedPublic,
            Grounds::Rule(_) => Verdict::AllowedByRule,
            Grounds::NoRule | Grounds::NotPublic if is_challenged => Verdict::Challenged,
            Grounds::NoRule => Verdict::NoRule,
            Grounds::NotPublic => Verdict::NotPublic,
        };
        let rule = match (grounds, &policy.rules) {
            (Grounds::Rule(index), Some(rules)) => Some((index, rules[index].to_string())),
            _ => None,
        };
        let judgement = Judgement {
            user: caller.user().map(str::to_owned),
            verdict,
            status: match (&permit, verdict) {
                (Some(_), _) => 200,
                (None, Verdict::Challenged) => 401,
                (None, _) => 403,
            },
            rule,
        };
        (judgement, permit)
    }
}
