//! Checkpoints in a table of SQLite.
//!
//! A store is a register per partition with compare-and-swap: a row has a version that every write raises,
//! and a write names the version that it replaces. What may be written over what is decided by longshore.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::checkpoint_store::{
    Checkpoint, CheckpointKey, CheckpointScope, CheckpointStore, Expected, Listed, StoreError,
    StoredCheckpoint, VersionToken,
};
use longshore::event::PartitionId;
use longshore::{Error, ErrorClass};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use tokio::task::spawn_blocking;

const READ: &str = "read the checkpoint";
const WRITE: &str = "write the checkpoint";

/// A [`CheckpointStore`] in a database of SQLite, which processes may share.
#[derive(Clone, Debug)]
pub struct SqliteCheckpointStore {
    connection: Arc<Mutex<Connection>>,
}

impl SqliteCheckpointStore {
    /// Opens a database, and creates it where it is missing. Blocks.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let open = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(std::time::Duration::from_secs(10))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            // `Ok` means durable: every commit is flushed.
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.execute(
                "CREATE TABLE IF NOT EXISTS checkpoints (
                    namespace TEXT NOT NULL, entity TEXT NOT NULL, consumer_group TEXT NOT NULL,
                    partition TEXT NOT NULL, version INTEGER NOT NULL, checkpoint TEXT NOT NULL,
                    PRIMARY KEY (namespace, entity, consumer_group, partition)
                ) WITHOUT ROWID",
                [],
            )?;
            Ok(connection)
        };
        let connection = open().map_err(|error| failed("open the checkpoints", error))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Works with the connection on a thread that may block.
    async fn with<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let connection = Arc::clone(&self.connection);
        let work = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        spawn_blocking(work).await.unwrap_or_else(|error| {
            let message = "the thread that works with it is gone";
            Err(Error::new(ErrorClass::Unknown, "use the database", message).with_source(error).into())
        })
    }
}

/// The columns of a key. Names of namespaces, hubs and groups are one whatever their case.
fn columns(scope: &CheckpointScope) -> [String; 3] {
    [scope.namespace.as_str(), scope.entity.as_str(), scope.consumer_group.as_str()]
        .map(str::to_ascii_lowercase)
}

/// What the caller does about an error: try again, or give up.
fn failed(operation: &'static str, error: rusqlite::Error) -> Error {
    let class = match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure,
        ) => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    };
    Error::new(class, operation, "the database failed").with_source(error)
}

fn stored(version: i64, checkpoint: &str) -> Result<StoredCheckpoint, Error> {
    let checkpoint = serde_json::from_str(checkpoint).map_err(|error| {
        Error::new(ErrorClass::BadData, READ, "it cannot be understood").with_source(error)
    })?;
    Ok(StoredCheckpoint { checkpoint, version: VersionToken(version.to_string()) })
}

impl CheckpointStore for SqliteCheckpointStore {
    fn load<'a>(
        &'a self,
        key: &'a CheckpointKey,
    ) -> BoxFuture<'a, Result<Option<StoredCheckpoint>, Error>> {
        let ([namespace, entity, group], partition) =
            (columns(&key.scope), key.partition.as_str().to_owned());
        self.with(move |connection| {
            let row = connection
                .query_row(
                    "SELECT version, checkpoint FROM checkpoints WHERE namespace = ?1
                     AND entity = ?2 AND consumer_group = ?3 AND partition = ?4",
                    params![namespace, entity, group, partition],
                    |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
                )
                .optional()
                .map_err(|error| failed(READ, error))?;
            row.map(|(version, checkpoint)| stored(version, &checkpoint)).transpose()
        })
        .boxed()
    }

    fn store<'a>(
        &'a self,
        key: &'a CheckpointKey,
        checkpoint: &'a Checkpoint,
        expected: &'a Expected,
    ) -> BoxFuture<'a, Result<VersionToken, StoreError>> {
        let ([namespace, entity, group], partition) =
            (columns(&key.scope), key.partition.as_str().to_owned());
        let text = serde_json::to_string(checkpoint);
        let expected = expected.clone();
        self.with(move |connection| {
            let text = text.map_err(|error| {
                Error::new(ErrorClass::Permanent, WRITE, "it has no JSON").with_source(error)
            })?;
            let written = match expected {
                Expected::Absent => connection
                    .query_row(
                        "INSERT INTO checkpoints VALUES (?1, ?2, ?3, ?4, 1, ?5)
                         ON CONFLICT DO NOTHING RETURNING version",
                        params![namespace, entity, group, partition, text],
                        |row| row.get::<_, i64>(0),
                    )
                    .optional(),
                Expected::Version(VersionToken(version)) => {
                    // A token that another store made.
                    let version: i64 = version.parse().map_err(|_| StoreError::Conflict)?;
                    connection
                        .query_row(
                            "UPDATE checkpoints SET version = version + 1, checkpoint = ?5
                             WHERE namespace = ?1 AND entity = ?2 AND consumer_group = ?3
                             AND partition = ?4 AND version = ?6 RETURNING version",
                            params![namespace, entity, group, partition, text, version],
                            |row| row.get::<_, i64>(0),
                        )
                        .optional()
                }
            };
            match written.map_err(|error| failed(WRITE, error))? {
                Some(version) => Ok(VersionToken(version.to_string())),
                None => Err(StoreError::Conflict),
            }
        })
        .boxed()
    }

    fn list<'a>(&'a self, scope: &'a CheckpointScope) -> BoxFuture<'a, Result<Vec<Listed>, Error>> {
        let [namespace, entity, group] = columns(scope);
        self.with(move |connection| {
            let list = || {
                let mut statement = connection.prepare(
                    "SELECT partition, version, checkpoint FROM checkpoints WHERE namespace = ?1
                     AND entity = ?2 AND consumer_group = ?3 ORDER BY partition",
                )?;
                let rows = statement.query_map(params![namespace, entity, group], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
                })?;
                rows.collect::<Result<Vec<_>, _>>()
            };
            let rows = list().map_err(|error| failed("list the checkpoints", error))?;
            let listed = rows.into_iter().map(|(partition, version, checkpoint)| {
                // One that cannot be read hides no other.
                (PartitionId::from(partition), stored(version, &checkpoint))
            });
            Ok(listed.collect())
        })
        .boxed()
    }
}
