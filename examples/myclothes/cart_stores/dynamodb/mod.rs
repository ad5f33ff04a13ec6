//! Carts in DynamoDB: one item for each session, with the version that the last write drew.
//!
//! Every write is conditional on that version, and every read is a consistent one, so that any number of instances share a table. A
//! request whose answer does not come is sent once more by the SDK; a write that finds itself there has been kept by the
//! first. An item that has expired is removed by DynamoDB some time later, up to days: until then it is loaded as any other, and is
//! not believed ([`super::changes`]). The largest cart takes a tenth of the 400 KB that an item may have.
//!
//! ```text
//! address.rs   what --carts dynamodb://… may say, and what the environment must
//! table.rs     can the table be used? It is made where that is wanted
//! ```

mod address;
#[cfg(test)]
mod refusals;
mod table;

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

pub(crate) use address::{Address, Login};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Region};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{CartStore, Held, Version, Written};
use crate::failure::Failure;
use crate::sessions::{self, Session, Visitor};

/// For everything that one request wants of DynamoDB at a time: a turn, a connection, the answer, another try.
const DEADLINE: Duration = Duration::from_millis(2500);
/// For one try of a request.
const ONE_TRY: Duration = Duration::from_millis(1400);
/// Tries of one request.
const TRIES: u32 = 2;
/// Longest pause between two of them.
const PAUSE: Duration = Duration::from_millis(100);
/// Requests of one instance that DynamoDB works on; more wait.
const TURNS: usize = 64;

/// The table's key: the hash of the sid, a string.
const KEY: &str = "sid_hash";
/// What the last write drew, a number.
const VERSION: &str = "version";
/// The session as JSON, a string.
const SESSION: &str = "session";
/// When DynamoDB may remove the item: seconds since 1970, a number.
const EXPIRES: &str = "expires";

/// Sessions in a table of DynamoDB.
pub(crate) struct DynamoDb {
    client: Client,
    address: Address,
    turns: Semaphore,
}

impl DynamoDb {
    /// Connects when it is first asked.
    pub(crate) fn new(address: &Address, login: Login) -> Self {
        let times = TimeoutConfig::builder().connect_timeout(ONE_TRY).operation_attempt_timeout(ONE_TRY);
        let tries = RetryConfig::standard().with_max_attempts(TRIES).with_max_backoff(PAUSE);
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(login.region))
            .credentials_provider(login.credentials)
            .timeout_config(times.build())
            .retry_config(tries.with_initial_backoff(PAUSE));
        config.set_endpoint_url(address.endpoint.clone());
        Self {
            client: Client::from_conf(config.build()),
            address: address.clone(),
            turns: Semaphore::new(TURNS),
        }
    }

    /// Waits for what DynamoDB says to one request, which may be that it refuses it. The error is that nothing is known.
    async fn ask<T, E>(
        &self,
        request: impl Future<Output = Result<T, SdkError<E>>> + Send,
    ) -> Result<Result<T, E>, Failure>
    where
        E: Error + 'static,
    {
        let asked = async {
            let _turn = self.turns.acquire().await;
            request.await
        };
        match timeout(DEADLINE, asked).await {
            Ok(Ok(answer)) => Ok(Ok(answer)),
            Ok(Err(SdkError::ServiceError(refusal))) => Ok(Err(refusal.into_err())),
            Ok(Err(trouble)) => Err(away(with_causes(&trouble))),
            Err(_) => Err(away(format!("no answer within {DEADLINE:?}"))),
        }
    }
}

fn away(reason: String) -> Failure {
    Failure::carts_away("dynamodb", reason)
}

/// What DynamoDB says when it refuses something.
fn words(refusal: &impl ProvideErrorMetadata) -> String {
    format!(
        "{}: {}",
        refusal.code().unwrap_or("an error without a name"),
        refusal.message().unwrap_or("no reason given")
    )
}

/// An error of the SDK, whose own text leaves out why.
fn with_causes(error: &dyn Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn version_of(item: &HashMap<String, AttributeValue>) -> Option<Version> {
    item.get(VERSION)?.as_n().ok()?.parse().ok().map(Version)
}

impl CartStore for DynamoDb {
    async fn load(&self, visitor: &Visitor) -> Result<Option<Held>, Failure> {
        let get = self.client.get_item().table_name(&self.address.table).consistent_read(true);
        let answer = self.ask(get.key(KEY, text(visitor.sid.hash())).send()).await?;
        let Some(item) = answer.map_err(|refusal| away(words(&refusal)))?.item else { return Ok(None) };
        let session = item.get(SESSION).and_then(|value| value.as_s().ok());
        let (Some(version), Some(session)) = (version_of(&item), session) else {
            return Err(Failure::internal("an item in DynamoDB that is no session"));
        };
        let session: Session = serde_json::from_str(session).map_err(Failure::internal)?;
        Ok(Some(Held { version, session }))
    }

    async fn save(
        &self,
        visitor: &Visitor,
        expected: Option<Version>,
        new: &Held,
    ) -> Result<Written, Failure> {
        let session = serde_json::to_string(&new.session).map_err(Failure::internal)?;
        let put = self
            .client
            .put_item()
            .table_name(&self.address.table)
            .item(KEY, text(visitor.sid.hash()))
            .item(VERSION, number(new.version.0))
            .item(SESSION, text(session))
            .item(EXPIRES, number(new.session.written + sessions::LIFETIME))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let put = match expected {
            None => {
                put.condition_expression("attribute_not_exists(#k)").expression_attribute_names("#k", KEY)
            }
            Some(expected) => put
                .condition_expression("#v = :v")
                .expression_attribute_names("#v", VERSION)
                .expression_attribute_values(":v", number(expected.0)),
        };
        match self.ask(put.send()).await? {
            Ok(_) => Ok(Written::Kept),
            // Written by the try whose answer was lost.
            Err(PutItemError::ConditionalCheckFailedException(found))
                if found.item().and_then(version_of) == Some(new.version) =>
            {
                Ok(Written::Kept)
            }
            Err(PutItemError::ConditionalCheckFailedException(_)) => Ok(Written::Changed),
            Err(refusal) => Err(away(words(&refusal))),
        }
    }

    async fn remove(&self, visitor: &Visitor, expected: Version) -> Result<Written, Failure> {
        let delete = self
            .client
            .delete_item()
            .table_name(&self.address.table)
            .key(KEY, text(visitor.sid.hash()))
            .condition_expression("#v = :v")
            .expression_attribute_names("#v", VERSION)
            .expression_attribute_values(":v", number(expected.0));
        match self.ask(delete.send()).await? {
            Ok(_) => Ok(Written::Kept),
            Err(DeleteItemError::ConditionalCheckFailedException(_)) => Ok(Written::Changed),
            Err(refusal) => Err(away(words(&refusal))),
        }
    }

    async fn forget_old(&self, _: i64) -> Result<(), Failure> {
        Ok(())
    }
}
