//! The accounts of one registry, which are equal in rights: which one a request is sent with, by what is left of their pulls.
//!
//! An account that the registry refuses, or whose pulls are used up, is passed over until it recovers. What one account is
//! refused is asked with the others before it is believed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::UpstreamError;
use super::account::AccountName;
use super::auth::Auth;
use super::budget::Pulls;
use super::rate_limit::RateLimit;
use super::request::{AuthSource, RequestKind};

/// How long an account is passed over after the registry refused its login, while there are others.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// The accounts of one registry, in the configured order; one that stands for no account if there are none.
#[derive(Debug)]
pub(super) struct Accounts {
    list: Vec<AccountState>,
    /// The rate limit of requests without an account, where there are accounts.
    anonymous: RateLimit,
}

/// One account, or none: its login and its rate limit.
#[derive(Debug)]
pub(super) struct AccountState {
    pub name: AccountName,
    pub auth: Auth,
    pub rate_limit: RateLimit,
    /// Until when it is passed over, after its login was refused.
    refused_until: Mutex<Option<Instant>>,
}

/// What a request is sent with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender<'a> {
    /// Its position in the list.
    pub index: usize,
    pub account: &'a AccountState,
    /// What the request counts against; `None` for a client's own login.
    pub rate_limit: Option<&'a RateLimit>,
    /// The name under which that is counted.
    pub counted_as: &'a AccountName,
}

/// The state of an account, as far as the choice depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    refused: bool,
    limited_for: Option<Duration>,
    /// `None`: the registry has not said.
    left: Option<u64>,
}

/// The account that a request is sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Account(usize),
    /// All that were not asked yet are limited, the first one of them for so long.
    Limited(Duration),
    /// All were asked.
    None,
}

impl AccountState {
    pub fn new(name: AccountName, auth: Auth) -> Self {
        Self {
            name,
            auth,
            rate_limit: RateLimit::default(),
            refused_until: Mutex::default(),
        }
    }

    /// Notes that the registry refused its login.
    pub fn refused(&self, now: Instant) {
        *self.lock() = Some(now + REFUSED_PAUSE);
    }

    /// Whether it is passed over because the registry refused its login.
    pub fn is_refused(&self, now: Instant) -> bool {
        self.lock().is_some_and(|until| now < until)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        let lock = self.refused_until.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    fn candidate(&self, now: Instant) -> Candidate {
        Candidate {
            refused: self.is_refused(now),
            limited_for: self.rate_limit.limited_for(now),
            left: self.rate_limit.left(now),
        }
    }
}

impl Accounts {
    /// `first` also stands for no account, if there is no other.
    pub fn new(first: AccountState, others: Vec<AccountState>) -> Self {
        let mut list = vec![first];
        list.extend(others);
        Self {
            list,
            anonymous: RateLimit::default(),
        }
    }

    pub fn all(&self) -> &[AccountState] {
        &self.list
    }

    /// The account of requests that are not distributed: writes, whose uploads may belong to an account. The first one that
    /// the registry does not refuse.
    pub fn first(&self, now: Instant) -> &AccountState {
        let accepted = self.list.iter().find(|account| !account.is_refused(now));
        accepted.unwrap_or(&self.list[0])
    }

    /// What the next request is sent with, if those at `asked` were asked already; `None` if there is no other.
    ///
    /// # Errors
    /// [`UpstreamError::TooManyRequests`] while all others are limited.
    pub fn sender(
        &self,
        auth: &AuthSource,
        kind: RequestKind,
        asked: &[usize],
        now: Instant,
    ) -> Result<Option<Sender<'_>>, UpstreamError> {
        let limited = |wait| UpstreamError::TooManyRequests {
            retry_after: Some(wait),
        };
        let fixed = match auth {
            AuthSource::Gateway => {
                let candidates: Vec<_> = self.list.iter().map(|one| one.candidate(now)).collect();
                return match choose(&candidates, kind, asked) {
                    Choice::Account(index) => Ok(Some(self.own_sender(index))),
                    Choice::Limited(wait) => Err(limited(wait)),
                    Choice::None => Ok(None),
                };
            }
            AuthSource::Preemptive(_) => self.own_sender(0),
            AuthSource::Anonymous => Sender {
                rate_limit: Some(self.anonymous()),
                counted_as: &AccountName::Anonymous,
                ..self.own_sender(0)
            },
            // A client's own rate limit says nothing about the gateway's.
            AuthSource::Caller(_) => Sender {
                rate_limit: None,
                ..self.own_sender(0)
            },
        };
        if !asked.is_empty() {
            return Ok(None);
        }
        let wait = fixed.rate_limit.and_then(|limit| limit.limited_for(now));
        match wait.filter(|_| kind == RequestKind::ManifestGet) {
            Some(wait) => Err(limited(wait)),
            None => Ok(Some(fixed)),
        }
    }

    /// The rate limit of requests without an account.
    pub fn anonymous(&self) -> &RateLimit {
        if self.list[0].name == AccountName::Anonymous {
            &self.list[0].rate_limit
        } else {
            &self.anonymous
        }
    }

    /// The pulls of all accounts that the registry accepts; `None` unless it limits each of them and says so.
    pub fn pulls(&self, now: Instant) -> Option<Pulls> {
        let accepted = self.list.iter().filter(|account| !account.is_refused(now));
        let mut pulls = accepted.map(|account| account.rate_limit.pulls(now));
        let first = pulls.next()??;
        pulls.try_fold(first, |sum, pulls| Some(sum.and(pulls?)))
    }

    /// Whether the registry says how many pulls it allows an account.
    pub fn states_a_limit(&self, now: Instant) -> bool {
        let mut left = self.list.iter().map(|account| account.rate_limit.left(now));
        left.any(|left| left.is_some())
    }

    /// How long manifest GETs are held back: `None` if one account may send them.
    pub fn limited_for(&self, now: Instant) -> Option<Duration> {
        let accepted = self.list.iter().filter(|account| !account.is_refused(now));
        let waits = accepted.map(|account| account.rate_limit.limited_for(now));
        let waits: Option<Vec<Duration>> = waits.collect();
        waits?.into_iter().min()
    }

    fn own_sender(&self, index: usize) -> Sender<'_> {
        let account = &self.list[index];
        Sender {
            index,
            account,
            rate_limit: Some(&account.rate_limit),
            counted_as: &account.name,
        }
    }
}

/// Chooses among the accounts that were not asked yet: one that is not limited, of these one whose pulls the registry does
/// not tell, else the one with the most left, else the first. Refused ones are passed over unless all are. Only manifest GETs
/// are held back while an account is limited.
fn choose(candidates: &[Candidate], kind: RequestKind, asked: &[usize]) -> Choice {
    let all_refused = candidates.iter().all(|one| one.refused);
    let open = candidates.iter().enumerate();
    let open = open.filter(|(index, one)| !asked.contains(index) && (all_refused || !one.refused));
    // The least is chosen; of equal ones the first.
    let preference = |one: &Candidate| {
        let unknown = one.left.is_none();
        let left = one.left.unwrap_or_default();
        (one.limited_for, !unknown, std::cmp::Reverse(left))
    };
    match open.min_by_key(|(_, one)| preference(one)) {
        None => Choice::None,
        Some((_, one)) if kind == RequestKind::ManifestGet && one.limited_for.is_some() => {
            Choice::Limited(one.limited_for.unwrap_or_default())
        }
        Some((index, _)) => Choice::Account(index),
    }
}

/// What an outcome says about the other accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    /// The login itself was refused, so that the registry has not answered.
    Login,
    /// The registry denies it, or does not have it: for this account.
    Content,
    /// The registry limits this account, so that it has not answered.
    Limited,
}

impl Refusal {
    /// The refusal that an error is; `None` if it is one to every account.
    fn of(error: &UpstreamError) -> Option<Self> {
        match error {
            UpstreamError::Helper(_) => Some(Self::Login),
            UpstreamError::Token(error) => match error.root() {
                UpstreamError::Denied(_) => Some(Self::Login),
                UpstreamError::TooManyRequests { .. } => Some(Self::Limited),
                _ => None,
            },
            UpstreamError::NotFound | UpstreamError::NoReferrers | UpstreamError::Denied(_) => {
                Some(Self::Content)
            }
            UpstreamError::TooManyRequests { .. } => Some(Self::Limited),
            _ => None,
        }
    }
}

/// Whether another account may get another answer.
pub(super) fn asks_the_next(error: &UpstreamError) -> bool {
    Refusal::of(error).is_some()
}

/// The error of several accounts' refusals: one that was limited may have the content that the others do not, and one that
/// could not log in says nothing.
pub(super) fn weightier(earlier: Option<UpstreamError>, error: UpstreamError) -> UpstreamError {
    match earlier {
        Some(earlier) if Refusal::of(&earlier) >= Refusal::of(&error) => earlier,
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::StatusCode;

    use super::*;

    fn open(left: Option<u64>) -> Candidate {
        Candidate {
            refused: false,
            limited_for: None,
            left,
        }
    }

    fn limited(seconds: u64) -> Candidate {
        Candidate {
            limited_for: Some(Duration::from_secs(seconds)),
            ..open(Some(0))
        }
    }

    fn refused() -> Candidate {
        Candidate {
            refused: true,
            ..open(None)
        }
    }

    #[test]
    fn the_account_with_the_most_left_is_chosen() {
        use Choice::{Account, Limited, None as Nobody};
        let seconds = Duration::from_secs;
        let (some, most, unknown) = (open(Some(5)), open(Some(50)), open(None));
        for (candidates, asked, for_get, for_head) in [
            (vec![open(None)], vec![], Account(0), Account(0)),
            (vec![open(Some(0))], vec![], Account(0), Account(0)),
            (vec![limited(9)], vec![], Limited(seconds(9)), Account(0)),
            (vec![limited(9)], vec![0], Nobody, Nobody),
            (vec![refused()], vec![], Account(0), Account(0)),
            (vec![some, most], vec![], Account(1), Account(1)),
            (vec![most, most], vec![], Account(0), Account(0)),
            (vec![most, unknown, unknown], vec![], Account(1), Account(1)),
            (vec![some, most], vec![1], Account(0), Account(0)),
            (vec![some, most], vec![0, 1], Nobody, Nobody),
            (vec![limited(9), some], vec![], Account(1), Account(1)),
            (
                vec![limited(9), some],
                vec![1],
                Limited(seconds(9)),
                Account(0),
            ),
            (
                vec![limited(9), limited(7)],
                vec![],
                Limited(seconds(7)),
                Account(1),
            ),
            (vec![refused(), some], vec![], Account(1), Account(1)),
            (vec![refused(), some], vec![1], Nobody, Nobody),
            (
                vec![refused(), limited(9)],
                vec![],
                Limited(seconds(9)),
                Account(1),
            ),
            (vec![refused(), refused()], vec![0], Account(1), Account(1)),
        ] {
            let get = choose(&candidates, RequestKind::ManifestGet, &asked);
            let head = choose(&candidates, RequestKind::Other, &asked);
            assert_eq!((get, head), (for_get, for_head), "{candidates:?} {asked:?}");
        }
    }

    #[test]
    fn a_limited_account_outweighs_a_refusal() {
        let denied = || UpstreamError::Denied(StatusCode::FORBIDDEN);
        let too_many = || UpstreamError::TooManyRequests { retry_after: None };
        let login = || UpstreamError::Token(Arc::new(denied()));
        for (errors, expected) in [
            (vec![UpstreamError::NotFound, denied()], "NotFound"),
            (vec![denied(), UpstreamError::NotFound], "Denied(403)"),
            (vec![UpstreamError::NotFound, too_many()], "TooManyRequests"),
            (vec![too_many(), UpstreamError::NotFound], "TooManyRequests"),
            (vec![login(), UpstreamError::NotFound], "NotFound"),
            (vec![UpstreamError::NotFound, login()], "NotFound"),
            (vec![login(), login()], "Token"),
            (vec![UpstreamError::Helper("x"), denied()], "Denied(403)"),
        ] {
            let case = format!("{errors:?}");
            assert!(errors.iter().all(asks_the_next), "{case}");
            let error = errors
                .into_iter()
                .fold(None, |earlier, error| Some(weightier(earlier, error)));
            let error = format!("{:?}", error.expect("an error"));
            assert!(error.starts_with(expected), "{case}: {error}");
        }
        for error in [
            UpstreamError::Timeout,
            UpstreamError::Status(StatusCode::BAD_GATEWAY),
            UpstreamError::Token(Arc::new(UpstreamError::Timeout)),
        ] {
            assert!(!asks_the_next(&error), "{error:?}");
        }
    }
}
