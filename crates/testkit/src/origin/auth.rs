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
    /// Those with a valid token.
    Bearer(Bearer),
    /// Each exact `Authorization` value and its repositories: without one, or with an unknown one, 401; for
    /// another repository, 404.
    Holders(Vec<(&'static str, Vec<&'static str>)>),
}

/// A token server, and how the registry treats its tokens. Clones share the tokens, so that one origin
/// can issue tokens that another accepts.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// The realm of the challenge; `None`: this origin's own `/token`.
    pub realm: Option<String>,
    /// The account that may get tokens; `None`: anybody.
    pub account: Option<(String, String)>,
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
    scopes: Vec<String>,
    until: Instant,
}

impl Default for Bearer {
    fn default() -> Self {
        Self {
            realm: None,
            account: None,
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
        let known = self.knows(request, &fields);
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
        tokens.valid.insert(name.clone(), Token { scopes, until });
        let mut answer = json!({});
        for field in &self.fields {
            answer[field] = json!(name);
        }
        if let Some(seconds) = self.expires_in {
            answer["expires_in"] = json!(seconds);
        }
        Answer::json(200, &answer)
    }

    fn knows(&self, request: &Recorded, fields: &[(String, String)]) -> bool {
        let Some((user, password)) = &self.account else {
            return true;
        };
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, v)| v);
        request.header("authorization") == Some(&crate::basic(user, password))
            || (field("username") == Some(user) && field("password") == Some(password))
    }
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
