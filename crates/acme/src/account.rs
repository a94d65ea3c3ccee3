//! The account at an authority: made once, and saved with its key.

use std::path::{Path, PathBuf};

use instant_acme::{Account, AccountCredentials, NewAccount};
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::order::OrderError;
use super::{Settings, write};

/// The file of an account.
#[derive(Deserialize, Serialize)]
struct Saved {
    /// The address that the authority has.
    email: Option<String>,
    credentials: AccountCredentials,
}

/// Whether the account of an earlier start is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    Used,
    /// The authority does not know it.
    Forgotten,
}

/// The account of an earlier start, or a new one, which is saved in `path`.
///
/// # Errors
/// [`OrderError::Acme`]: the authority makes none; [`OrderError::File`]: it cannot be saved.
pub async fn account(
    client: &Client,
    settings: &Settings,
    path: &Path,
    earlier: Earlier,
) -> Result<Account, OrderError> {
    let builder = Account::builder_with_http(Box::new(client.clone()));
    let contact = settings.email.as_ref();
    let contact = contact.map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    if earlier == Earlier::Used
        && let Some(mut saved) = read(path).await
    {
        let known = saved.credentials_again()?;
        let account = builder.from_credentials(known).await?;
        if saved.email != settings.email {
            account.update_contacts(&contact).await?;
            saved.email.clone_from(&settings.email);
            save(path, &saved).await?;
        }
        return Ok(account);
    }
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let directory = settings.directory.clone();
    let (account, credentials) = builder.create(&new, directory, None).await?;
    let email = settings.email.clone();
    save(path, &Saved { email, credentials }).await?;
    tracing::info!(
        directory = settings.directory,
        "made an account at the ACME authority"
    );
    Ok(account)
}

impl Saved {
    /// The credentials, which their type cannot clone.
    fn credentials_again(&self) -> Result<AccountCredentials, serde_json::Error> {
        serde_json::from_value(serde_json::to_value(&self.credentials)?)
    }
}

async fn read(path: &Path) -> Option<Saved> {
    let bytes = blocking(path, |path| std::fs::read(path).ok()).await?;
    let saved = serde_json::from_slice(&bytes);
    saved
        .inspect_err(|error| {
            let file = path.display();
            tracing::warn!(%file, %error, "this file has no ACME account any more; another is made");
        })
        .ok()
}

async fn save(path: &Path, saved: &Saved) -> Result<(), OrderError> {
    let bytes = serde_json::to_vec(saved)?;
    Ok(blocking(path, move |path| write(path, &bytes)).await?)
}

/// Does something with a file on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    path: &Path,
    act: impl FnOnce(&Path) -> T + Send + 'static,
) -> T {
    let path: PathBuf = path.to_owned();
    let done = tokio::task::spawn_blocking(move || act(&path)).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
