//! Whether the table can be used, asked before anything is served; it is made where `create=true` says so.
//!
//! Only what will not go away by itself is an error: that there is no table, or that the credentials count for nothing. When nobody
//! answers, or DynamoDB is too busy, the shop starts, and shows its catalogue without carts until that is over.

use std::time::Duration;

use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata as _};
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};
use tokio::time::{Instant, sleep};

use super::{DynamoDb, EXPIRES, KEY, text, words};

/// From the order to make a table until it can be used.
const MADE: Duration = Duration::from_secs(30);
/// Between two looks whether it can.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What DynamoDB says when it may do later what it does not do now.
const FOR_NOW: [&str; 4] = [
    "InternalServerError",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
];

/// When nobody answers; why is in the log.
const SILENCE: &str = "DynamoDB cannot be asked";

/// What there is.
#[derive(PartialEq, Eq)]
enum Table {
    Usable,
    Missing,
    /// Nobody can be asked.
    Unknown,
}

impl DynamoDb {
    /// Looks for the table, and makes it if it is missing and should be. The error is one line.
    pub(crate) async fn prepare(&self) -> Result<(), String> {
        match self.table().await? {
            Table::Usable | Table::Unknown => Ok(()),
            Table::Missing if self.address.create => self.make().await,
            Table::Missing => {
                let name = &self.address.table;
                Err(format!(
                    "there is no table {name} in DynamoDB: make it with `aws dynamodb create-table --table-name {name} \
                     --billing-mode PAY_PER_REQUEST --attribute-definitions AttributeName={KEY},AttributeType=S --key-schema \
                     AttributeName={KEY},KeyType=HASH` and let it expire sessions with `aws dynamodb update-time-to-live \
                     --table-name {name} --time-to-live-specification Enabled=true,AttributeName={EXPIRES}`; or write \
                     create=true behind the name"
                ))
            }
        }
    }

    /// Asks for something that is not there: that needs no other permission than serving does.
    async fn table(&self) -> Result<Table, String> {
        let get = self.client.get_item().table_name(&self.address.table).key(KEY, text("-")).send();
        match self.ask(get).await {
            Ok(Ok(_)) => Ok(Table::Usable),
            Ok(Err(refusal)) if refusal.is_resource_not_found_exception() => Ok(Table::Missing),
            Ok(Err(refusal)) if refusal.code().is_none_or(|code| FOR_NOW.contains(&code)) => {
                Ok(Table::Unknown)
            }
            Ok(Err(refusal)) => Err(format!("DynamoDB refuses {}: {}", self.address, words(&refusal))),
            Err(_) => Ok(Table::Unknown),
        }
    }

    async fn make(&self) -> Result<(), String> {
        let name = &self.address.table;
        let failed = |why: String| format!("the table {name} cannot be made: {why}");
        let built = |error: BuildError| failed(error.to_string());
        let key = AttributeDefinition::builder().attribute_name(KEY).attribute_type(ScalarAttributeType::S);
        let schema = KeySchemaElement::builder().attribute_name(KEY).key_type(KeyType::Hash);
        let create = self
            .client
            .create_table()
            .table_name(name)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(key.build().map_err(built)?)
            .key_schema(schema.build().map_err(built)?);
        match self.ask(create.send()).await.map_err(|_| failed(SILENCE.to_owned()))? {
            // Another instance may be making it.
            Ok(_) | Err(CreateTableError::ResourceInUseException(_)) => {}
            Err(refusal) => return Err(failed(words(&refusal))),
        }
        let started = Instant::now();
        while self.table().await? != Table::Usable {
            if started.elapsed() > MADE {
                return Err(failed(format!("it cannot be used after {MADE:?}")));
            }
            sleep(LOOK_AGAIN).await;
        }
        let expiry = TimeToLiveSpecification::builder().enabled(true).attribute_name(EXPIRES);
        let expire = self.client.update_time_to_live().table_name(name);
        let expire = expire.time_to_live_specification(expiry.build().map_err(built)?).send();
        match self.ask(expire).await.map_err(|_| failed(SILENCE.to_owned()))? {
            Ok(_) => Ok(()),
            // Not every server that speaks as DynamoDB does can.
            Err(refusal) if refusal.code() == Some("UnknownOperationException") => {
                eprintln!("myclothes: the server of the table {name} does not remove what has expired");
                Ok(())
            }
            // By the other instance.
            Err(refusal) if refusal.message().is_some_and(|message| message.contains("already enabled")) => {
                Ok(())
            }
            Err(refusal) => Err(failed(format!("its sessions would never expire: {}", words(&refusal)))),
        }
    }
}
