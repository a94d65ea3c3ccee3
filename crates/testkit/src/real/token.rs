//! A token server (distribution's token specification) whose tokens docker-registry accepts: JWTs signed
//! with RS256, the certificate in the header.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, RsaKeySize, SigningKey as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use url::form_urlencoded;

use super::write;
use crate::{basic, http};

const SERVICE: &str = "the upstream";
const ISSUER: &str = "roadstead tests";
/// The lifetime of a token, in seconds.
const LIFE: u64 = 300;

/// Issues tokens to one account, or to anybody, for any scope. It stops when dropped.
pub struct TokenServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
    dir: TempDir,
}

/// One token request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The `User-Agent`.
    pub user_agent: String,
    /// As in `repository:library/app:pull`.
    pub scopes: Vec<String>,
    /// Whether it got a token.
    pub granted: bool,
}

struct Shared {
    account: Option<(String, String)>,
    key: KeyPair,
    /// The certificate of the key, DER in base64.
    certificate: String,
    asked: Mutex<Vec<Asked>>,
}

impl TokenServer {
    /// On `127.0.0.1`, for this account (user, password) only, or for anybody.
    pub fn start(account: Option<(&str, &str)>) -> Self {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048);
        let key = key.expect("an RSA key");
        let certificate = CertificateParams::new(vec!["tokens.example".to_owned()])
            .and_then(|params| params.self_signed(&key))
            .expect("a certificate");
        let dir = crate::temp_dir();
        write(&dir.path().join("tokens.pem"), certificate.pem());
        let shared = Arc::new(Shared {
            account: account.map(|(user, password)| (user.to_owned(), password.to_owned())),
            key,
            certificate: STANDARD.encode(certificate.der()),
            asked: Mutex::default(),
        });
        let listener = http::block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let serving = shared.clone();
        let task = http::runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().answer(stream));
            }
        });
        Self {
            shared,
            address,
            task,
            dir,
        }
    }

    /// The `auth` section of docker-registry's configuration.
    pub fn config(&self) -> Value {
        json!({"token": {
            "realm": format!("http://{}/token", self.address),
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": self.bundle(),
        }})
    }

    /// The only account, as user name and password; `None`: anonymous clients get tokens too.
    pub fn account(&self) -> Option<(String, String)> {
        self.shared.account.clone()
    }

    /// Every token request so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked().clone()
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("tokens.pem")
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request, one answer.
    async fn answer(self: Arc<Self>, mut stream: TcpStream) {
        let (reader, mut writer) = stream.split();
        let mut lines = BufReader::new(reader).lines();
        let mut head = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let target = head.first().and_then(|line| line.strip_prefix("GET "));
        let (status, body) = match target.and_then(|target| target.split(' ').next()) {
            Some(target) => self.token(target, &head),
            None => ("405 Method Not Allowed", json!({})),
        };
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = writer.write_all(answer.as_bytes()).await;
    }

    fn token(&self, target: &str, head: &[String]) -> (&'static str, Value) {
        let header = |name: &str| {
            head.iter()
                .filter_map(|line| line.split_once(": "))
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map_or("", |(_, value)| value)
        };
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let scopes: Vec<String> = form_urlencoded::parse(query.as_bytes())
            .filter(|(key, _)| key == "scope")
            .flat_map(|(_, scopes)| scopes.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let granted = self
            .account
            .as_ref()
            .is_none_or(|(user, password)| header("authorization") == basic(user, password));
        self.asked().push(Asked {
            user_agent: header("user-agent").to_owned(),
            scopes: scopes.clone(),
            granted,
        });
        if granted {
            ("200 OK", self.issue(&scopes))
        } else {
            ("401 Unauthorized", json!({"details": "not this account"}))
        }
    }

    /// A token for these scopes, as the answer has it.
    fn issue(&self, scopes: &[String]) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a clock after 1970").as_secs();
        let access: Vec<Value> = scopes
            .iter()
            .filter_map(|scope| {
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                let actions: Vec<&str> = actions.split(',').collect();
                Some(json!({"type": kind, "name": name, "actions": actions}))
            })
            .collect();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER,
            "sub": self.account.as_ref().map_or("", |(user, _)| user),
            "aud": SERVICE,
            "exp": now + LIFE,
            "nbf": now - 10,
            "iat": now,
            "jti": format!("{:016x}", fastrand::u64(..)),
            "access": access,
        });
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.key.sign(signed.as_bytes()).expect("a signature");
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        json!({"token": token, "expires_in": LIFE})
    }
}
