//! Access control of the scripted upstream: anonymous, a Basic account, or tokens that its own
//! token endpoint (`GET` and `POST /token`) issues.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;
use serde_json::json;

use super::Recorded;
use super::wire::Answer;

/// Which requests are allowed.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// All; `Authorization` is ignored.
    #[default]
    None,
    /// One account.
    Basic {
        /// The user name.
        user: String,
        /// The password.
        password: String,
    },
    /// Several accounts by Basic, each with its repositories.
    Users(Vec<User>),
    /// Those with a valid token.
    Bearer(Bearer),
    /// Each exact `Authorization` value and its repositories: without one, or with an unknown one, 401; for
    /// another repository, 404.
    Holders(Vec<(&'static str, Vec<&'static str>)>),
}

/// An account of [`Auth::Users`].
#[derive(Clone, Debug)]
pub struct User {
    /// The user name.
    pub name: &'static str,
    /// The password.
    pub password: &'static str,
    /// The repositories that it may read: others are answered `refusal`. `None`: all.
    pub repositories: Option<Vec<&'static str>>,
    /// 401, 403 or 404.
    pub refusal: u16,
}

impl User {
    /// An account that may read everything.
    pub const fn new(name: &'static str, password: &'static str) -> Self {
        Self {
            name,
            password,
            repositories: None,
            refusal: 404,
        }
    }
}

/// A token server, and how the registry treats its tokens. Clones share the tokens, so that one origin
/// can issue tokens that another accepts.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// The realm of the challenge; `None`: this origin's own `/token`.
    pub realm: Option<String>,
    /// The account that may get tokens; `None`: anybody.
    pub account: Option<(String, String)>,
    /// Further accounts that may.
    pub more_accounts: Vec<(&'static str, &'static str)>,
    /// Repositories that are public to tokens without the account.
    pub public: Vec<&'static str>,
    /// `expires_in` in seconds; `None` omits the field, and tokens last 60 s.
    pub expires_in: Option<u64>,
    /// The fields of the response that hold the token.
    pub fields: Vec<&'static str>,
    /// `false`: tokens are issued without the requested right.
    pub grants: bool,
    /// `false`: the registry refuses every token with 401.
    pub accepts: bool,
    /// The status for a token without the right: 401 (`insufficient_scope`) or 403.
    pub refusal: u16,
    /// The methods of the token endpoint; others get 405.
    pub methods: Vec<&'static str>,
    /// The valid tokens.
    pub tokens: Arc<Mutex<Tokens>>,
}

#[derive(Debug, Default)]
pub struct Tokens {
    issued: usize,
    valid: HashMap<String, Token>,
}

#[derive(Debug)]
struct Token {
    account: String,
    scopes: Vec<String>,
    until: Instant,
}

impl Default for Bearer {
    fn default() -> Self {
        Self {
            realm: None,
            account: None,
            more_accounts: Vec::new(),
            public: Vec::new(),
            expires_in: Some(300),
            fields: vec!["token", "access_token"],
            grants: true,
            accepts: true,
            refusal: 401,
            methods: vec!["GET", "POST"],
            tokens: Arc::default(),
        }
    }
}

impl Auth {
    /// One account, for every request.
    pub fn basic(user: &str, password: &str) -> Self {
        Self::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    /// Tokens for anybody.
    pub fn bearer() -> Self {
        Self::Bearer(Bearer::default())
    }

    /// The refusal, unless this request is allowed. `url` is the origin's own.
    pub fn refuse(&self, request: &Recorded, url: &str) -> Option<Answer> {
        match self {
            Self::None => None,
            Self::Basic { user, password } => {
                let wanted = crate::basic(user, password);
                let allowed = request.header("authorization") == Some(&wanted);
                (!allowed).then(|| unauthorized("Basic realm=\"origin\"".to_owned()))
            }
            Self::Users(users) => {
                let Some(user) = user_of(users, request) else {
                    return Some(unauthorized("Basic realm=\"origin\"".to_owned()));
                };
                let name = repository(&request.path)?;
                let allowed = user.repositories.as_ref();
                let allowed = allowed.is_none_or(|allowed| allowed.contains(&name));
                (!allowed).then(|| Answer::error(user.refusal, "NAME_UNKNOWN"))
            }
            Self::Bearer(bearer) => bearer.refuse(request, url),
            Self::Holders(holders) => {
                let shown = request.header("authorization").unwrap_or_default();
                let holder = holders.iter().find(|(known, _)| *known == shown);
                let Some((_, repositories)) = holder else {
                    return Some(unauthorized(CHALLENGE.to_owned()));
                };
                let name = repository(&request.path)?;
                (!repositories.contains(&name)).then(|| Answer::error(404, "NAME_UNKNOWN"))
            }
        }
    }

    /// The account that a request is counted for; `anonymous` without one.
    pub fn account_of(&self, request: &Recorded) -> String {
        let known = match self {
            Self::Users(users) => user_of(users, request).map(|user| user.name.to_owned()),
            Self::Bearer(bearer) => bearer.holder(request),
            _ => None,
        };
        known.unwrap_or_else(|| "anonymous".to_owned())
    }

    /// The response of the token endpoint, if this is a request to it.
    pub fn token(&self, request: &Recorded) -> Option<Answer> {
        match self {
            Self::Bearer(bearer) if request.path == "/token" => Some(bearer.token(request)),
            _ => None,
        }
    }
}

impl Bearer {
    /// The number of tokens issued.
    pub fn issued(&self) -> usize {
        self.tokens().issued
    }

    pub(super) fn revoke(&mut self) {
        self.tokens().valid.clear();
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, request: &Recorded, url: &str) -> Option<Answer> {
        let scope = repository(&request.path).map(|name| format!("repository:{name}:pull"));
        let bearer = request.header("authorization").unwrap_or_default();
        let token = bearer.strip_prefix("Bearer ").unwrap_or_default();
        let tokens = self.tokens();
        let valid = tokens.valid.get(token);
        let Some(valid) = valid.filter(|token| self.accepts && token.until > Instant::now()) else {
            return Some(unauthorized(self.challenge(url, scope.as_deref(), "")));
        };
        if scope
            .as_ref()
            .is_none_or(|scope| valid.scopes.contains(scope))
        {
            return None;
        }
        if self.refusal == 403 {
            return Some(Answer::error(403, "DENIED"));
        }
        let error = ",error=\"insufficient_scope\"";
        Some(unauthorized(self.challenge(url, scope.as_deref(), error)))
    }

    /// The account that a request's token was issued to.
    fn holder(&self, request: &Recorded) -> Option<String> {
        let token = request.header("authorization")?.strip_prefix("Bearer ")?;
        Some(self.tokens().valid.get(token)?.account.clone())
    }

    fn challenge(&self, url: &str, scope: Option<&str>, error: &str) -> String {
        let own = format!("{url}/token");
        let realm = self.realm.as_deref().unwrap_or(&own);
        let scope = scope.map_or(String::new(), |scope| format!(",scope=\"{scope}\""));
        format!("Bearer realm=\"{realm}\",service=\"origin\"{scope}{error}")
    }

    fn token(&self, request: &Recorded) -> Answer {
        if !self.methods.contains(&request.method.as_str()) {
            return Answer::error(405, "UNSUPPORTED");
        }
        let body = String::from_utf8_lossy(&request.body);
        let mut fields = parameters(&request.query);
        fields.extend(parameters(&body));
        let account = self.account(request, &fields);
        let known = account.is_some();
        if !known && (self.public.is_empty() || request.header("authorization").is_some()) {
            return unauthorized("Basic realm=\"token\"".to_owned());
        }
        let scopes = fields.iter().filter(|(key, _)| key == "scope");
        let scopes = scopes
            .flat_map(|(_, value)| value.split(' '))
            .map(str::to_owned);
        let is_public = |scope: &String| {
            let name = scope.split(':').nth(1).unwrap_or_default();
            self.public.contains(&name)
        };
        let scopes = scopes.filter(|scope| self.grants && (known || is_public(scope)));
        let scopes = scopes.collect();
        let mut tokens = self.tokens();
        tokens.issued += 1;
        let name = format!("token-{}", tokens.issued);
        let life = Duration::from_secs(self.expires_in.unwrap_or(60));
        let until = Instant::now() + life;
        let token = Token {
            account: account.unwrap_or_else(|| "anonymous".to_owned()),
            scopes,
            until,
        };
        tokens.valid.insert(name.clone(), token);
        let mut answer = json!({});
        for field in &self.fields {
            answer[field] = json!(name);
        }
        if let Some(seconds) = self.expires_in {
            answer["expires_in"] = json!(seconds);
        }
        Answer::json(200, &answer)
    }

    /// The account that asks for a token; `None` if it has none that is known.
    fn account(&self, request: &Recorded, fields: &[(String, String)]) -> Option<String> {
        let Some((user, password)) = &self.account else {
            return Some("anonymous".to_owned());
        };
        let field = |name: &str| {
            let found = fields.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str())
        };
        let first = (user.as_str(), password.as_str());
        let mut accounts = std::iter::once(first).chain(self.more_accounts.iter().copied());
        let found = accounts.find(|(user, password)| {
            request.header("authorization") == Some(&crate::basic(user, password))
                || (field("username") == Some(user) && field("password") == Some(password))
        });
        found.map(|(user, _)| user.to_owned())
    }
}

/// The account that a request logs in with.
fn user_of<'a>(users: &'a [User], request: &Recorded) -> Option<&'a User> {
    let shown = request.header("authorization")?;
    users
        .iter()
        .find(|user| shown == crate::basic(user.name, user.password))
}

/// The challenge of [`Auth::Holders`].
pub const CHALLENGE: &str =
    "Bearer realm=\"https://auth.example.org/token?x=1\",service=\"theirs\"";

/// The repository of a path, parsed from the right.
pub fn repository(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v2/")?;
    ["/manifests/", "/blobs/", "/tags/", "/referrers/"]
        .iter()
        .filter_map(|word| rest.rfind(word))
        .max()
        .map(|end| &rest[..end])
}

/// The decoded fields of a query or form.
pub fn parameters(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

fn unauthorized(challenge: String) -> Answer {
    let mut answer = Answer::error(401, "UNAUTHORIZED");
    answer.set("WWW-Authenticate", challenge);
    answer
}
