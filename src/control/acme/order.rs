//! One conversation with an authority: account, order, proofs, certificate (RFC 8555).
//!
//! Nothing here decides when; see `schedule`. Whatever proofs are shown are taken back at the end, however it ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AccountBuilder, AuthorizationHandle, AuthorizationStatus, CertificateIdentifier, ChallengeType,
    Error, ExternalAccountKey, Identifier, KeyAuthorization, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::storage::{Obtained, Storage};
use crate::config::acme::{Acme, Challenge};
use crate::config::tls::provider;
use crate::pool::Managed;

/// Between two questions whether the authority has made up its mind, at first and at most in all.
const ASK_AGAIN: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// What an authority says that has forgotten an account.
const UNKNOWN_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// When the authority wants a certificate to be renewed, and after what time to ask it again.
pub(super) struct Suggestion {
    /// First and last moment.
    pub(super) window: std::ops::RangeInclusive<SystemTime>,
    /// To be asked again after this.
    pub(super) again: Duration,
}

/// The account of `acme`, made if there is none yet.
pub(super) async fn account(acme: &Acme) -> Result<Account, String> {
    let storage = Storage::new(&acme.storage);
    if let Some(credentials) = storage.account(&acme.directory)? {
        return builder(acme)?.from_credentials(credentials).await.map_err(|error| told(&error));
    }
    let contacts: Vec<&str> = acme.contacts.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
    let external = acme
        .external_account
        .as_ref()
        .map(|external| ExternalAccountKey::new(external.key_id.clone(), &external.hmac_key));
    let created = builder(acme)?.create(&new, acme.directory.to_string(), external.as_ref()).await;
    let (account, credentials) = created.map_err(|error| told(&error))?;
    // An account that is lost is made anew each time, until the authority has had enough.
    storage.keep_account(&acme.directory, credentials)?;
    Ok(account)
}

fn builder(acme: &Acme) -> Result<AccountBuilder, String> {
    match &acme.ca {
        Some(ca) => {
            Account::builder_with_root(ca).map_err(|error| format!("{}: {}", ca.display(), told(&error)))
        }
        None => Account::builder().map_err(|error| told(&error)),
    }
}

/// A new certificate with these names: its key and its chain in PEM. `old` is the one that it replaces.
pub(super) async fn obtain(
    account: &Account,
    acme: &Acme,
    names: &[Box<str>],
    old: Option<&Obtained>,
    managed: &Arc<Managed>,
) -> Result<String, String> {
    let mut order = order(account, acme, names, old).await?;
    let _proofs = Proofs(managed.clone());
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        prove(authorization.map_err(|error| told(&error))?, acme.challenge, managed).await?;
    }
    match order.poll_ready(&ASK_AGAIN).await.map_err(|error| told(&error))? {
        OrderStatus::Ready => {}
        other => return Err(format!("the authority says that the order is {other:?}")),
    }
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let mut request = CertificateParams::new(names).map_err(|error| error.to_string())?;
    request.distinguished_name = DistinguishedName::new();
    let request = request.serialize_request(&key).map_err(|error| error.to_string())?;
    order.finalize_csr(request.der()).await.map_err(|error| told(&error))?;
    let chain = order.poll_certificate(&ASK_AGAIN).await.map_err(|error| told(&error))?;
    Ok(format!("{}{chain}", key.serialize_pem()))
}

/// A new order for these names. `old` is the certificate that it replaces.
async fn order(
    account: &Account,
    acme: &Acme,
    names: &[Box<str>],
    old: Option<&Obtained>,
) -> Result<Order, String> {
    let identifiers: Vec<_> = names.iter().map(|name| Identifier::Dns(name.to_string())).collect();
    let replaced = old.and_then(|old| CertificateIdentifier::try_from(old.certified.cert.first()?).ok());
    // Authorities that do not know of replacement, or not of this one, are asked without it.
    if let Some(replaced) = replaced
        && let Ok(order) = account.new_order(&NewOrder::new(&identifiers).replaces(replaced)).await
    {
        return Ok(order);
    }
    account.new_order(&NewOrder::new(&identifiers)).await.map_err(|error| match &error {
        Error::Api(problem) if problem.r#type.as_deref() == Some(UNKNOWN_ACCOUNT) => {
            let aside = Storage::new(&acme.storage).put_account_aside();
            format!("{}; {aside}", told(&error))
        }
        _ => told(&error),
    })
}

/// Shows the proof for one name and tells the authority to look.
async fn prove(
    mut authorization: AuthorizationHandle<'_>,
    challenge: Challenge,
    managed: &Managed,
) -> Result<(), String> {
    match authorization.status {
        AuthorizationStatus::Valid => return Ok(()),
        AuthorizationStatus::Pending => {}
        other => return Err(format!("the authority says that the name is {other:?}")),
    }
    let wanted = match challenge {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    };
    let mut offered = authorization
        .challenge(wanted)
        .ok_or_else(|| format!("the authority offers no {challenge:?} for this name"))?;
    let name = offered.identifier().to_string();
    let answer = offered.key_authorization();
    match challenge {
        Challenge::Http01 => {
            let token = offered.token.clone().into_boxed_str();
            managed.change(|held| drop(held.http_proofs.insert(token, answer.as_str().to_owned().into())));
        }
        Challenge::TlsAlpn01 => {
            let proof = certificate_of_proof(&name, &answer)?;
            managed.change(|held| drop(held.tls_proofs.insert(name.into(), Arc::new(proof))));
        }
    }
    offered.set_ready().await.map_err(|error| told(&error))
}

/// What RFC 8737 §3 wants to see: a certificate for the name that signs itself and holds the answer.
fn certificate_of_proof(name: &str, answer: &KeyAuthorization) -> Result<CertifiedKey, String> {
    let wrong = |error: rcgen::Error| error.to_string();
    let mut parameters = CertificateParams::new(vec![name.to_owned()]).map_err(wrong)?;
    parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(answer.digest().as_ref())];
    let key = KeyPair::generate().map_err(wrong)?;
    let certificate = parameters.self_signed(&key).map_err(wrong)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    let key = provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    // Not checked as others are: it has a critical extension that nobody but authorities understands.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// When the authority wants this certificate to be renewed (RFC 9773); `None` if it does not say.
pub(super) async fn suggestion(account: &Account, obtained: &Obtained) -> Option<Suggestion> {
    let id = CertificateIdentifier::try_from(obtained.certified.cert.first()?).ok()?;
    let (info, again) = account.renewal_info(&id).await.ok()?;
    let window = SystemTime::from(info.suggested_window.start)..=SystemTime::from(info.suggested_window.end);
    Some(Suggestion { window, again })
}

fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Takes all proofs back when dropped.
struct Proofs(Arc<Managed>);

impl Drop for Proofs {
    fn drop(&mut self) {
        self.0.change(|held| {
            held.http_proofs.clear();
            held.tls_proofs.clear();
        });
    }
}
