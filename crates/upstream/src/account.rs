//! The gateway's account at a registry: a configured password, or one from a `docker-credential-…` program.

use std::fmt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;

use super::UpstreamError;
use oci::credential;

/// The limit on a run of a helper.
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest output of a helper, in bytes.
const MAX_HELPER_OUTPUT: u64 = 64 << 10;
/// The user name that marks a helper's secret as an identity token.
const IDENTITY_TOKEN: &str = "<token>";

/// A user name and a secret. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name; `<token>` with an identity token.
    pub username: String,
    /// A password, an access token of the registry, or an identity token.
    pub password: String,
}

impl Credentials {
    /// Whether the secret is an identity token, which only token endpoints accept.
    pub(super) fn is_identity_token(&self) -> bool {
        self.username == IDENTITY_TOKEN
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, [redacted])", self.username)
    }
}

/// Where the credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// From the configuration.
    Fixed(Credentials),
    /// The bare name of a program: `docker-credential-[a-z0-9-]+`.
    Helper(String),
}

/// The name of an account for operators: as the configuration bounds it, and never secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountName {
    /// No account.
    Anonymous,
    /// The user name, or the program that supplies it.
    Named(String),
}

impl AccountName {
    /// The name for logs and labels of metrics.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Named(name) => name,
        }
    }
}

impl Account {
    /// Its name for operators.
    pub(super) fn name(&self) -> AccountName {
        AccountName::Named(match self {
            Self::Fixed(credentials) => credentials.username.clone(),
            Self::Helper(program) => program.clone(),
        })
    }
}

/// An account in use.
#[derive(Debug)]
pub(super) struct Login {
    account: Account,
    /// The server URL that a helper is asked for.
    server: String,
    cached: Mutex<Option<(Credentials, Instant)>>,
}

impl Login {
    /// `registry` is the configured name.
    pub fn new(account: Account, registry: &str) -> Self {
        Self {
            account,
            server: credential::server_of(registry).to_owned(),
            cached: Mutex::new(None),
        }
    }

    /// The credentials, from the helper if its last answer has expired.
    ///
    /// # Errors
    /// [`UpstreamError::Helper`] when the helper has none or misbehaves; its output is never part of the error.
    pub async fn credentials(&self) -> Result<Credentials, UpstreamError> {
        let program = match &self.account {
            Account::Fixed(credentials) => return Ok(credentials.clone()),
            Account::Helper(program) => program,
        };
        let mut cached = self.cached.lock().await;
        if let Some((credentials, until)) = &*cached
            && Instant::now() < *until
        {
            return Ok(credentials.clone());
        }
        let output = tokio::time::timeout(HELPER_TIMEOUT, ask(program, &self.server)).await;
        let output =
            output.map_err(|_| UpstreamError::Helper("it did not answer within 10 s"))??;
        let answer = credential::parse(&output).map_err(|_| {
            UpstreamError::Helper("its answer is not the JSON of a credential helper")
        })?;
        let lifetime = answer.lifetime(time::OffsetDateTime::now_utc());
        let credentials = Credentials {
            username: answer.username,
            password: answer.secret,
        };
        *cached = Some((credentials.clone(), Instant::now() + lifetime));
        Ok(credentials)
    }
}

/// Runs `<program> get` with the server on its standard input. No shell is involved.
async fn ask(program: &str, server: &str) -> Result<Vec<u8>, UpstreamError> {
    let broken = |_| UpstreamError::Helper("it cannot be run");
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(broken)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may have exited already.
        let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(MAX_HELPER_OUTPUT + 1)
            .read_to_end(&mut answer)
            .await
            .map_err(broken)?;
    }
    if answer.len() as u64 > MAX_HELPER_OUTPUT {
        return Err(UpstreamError::Helper("its answer is longer than 64 KiB"));
    }
    if !child.wait().await.map_err(broken)?.success() {
        return Err(UpstreamError::Helper(
            "it has no credentials for this registry",
        ));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let fixed = Account::Fixed(Credentials {
            username: "me".into(),
            password: "s3cret".into(),
        });
        assert!(!format!("{:?}", Login::new(fixed, "docker.io")).contains("s3cret"));
    }
}
