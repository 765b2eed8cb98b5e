//! [`Server`]: a connection to Redis, made when it is needed and made again when it is lost.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Client, FromRedisValue, RedisError, ScriptInvocation};
use tokio::sync::OnceCell;

#[derive(Clone)]
pub(super) enum Server {
    Single { client: Box<Client>, connection: Arc<OnceCell<ConnectionManager>> },
    Cluster { client: Box<ClusterClient>, connection: Arc<OnceCell<ClusterConnection>> },
}

impl Server {
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        question: &ScriptInvocation<'_>,
        patience: Duration,
    ) -> Result<T, RedisError> {
        match self {
            Self::Single { client, connection } => {
                let connect = async || {
                    choose_crypto();
                    let config = ConnectionManagerConfig::new()
                        .set_connection_timeout(Some(patience))
                        .set_response_timeout(Some(patience))
                        .set_number_of_retries(1);
                    ConnectionManager::new_with_config(Client::clone(client), config).await
                };
                let mut connection = connection.get_or_try_init(connect).await?.clone();
                question.invoke_async(&mut connection).await
            }
            Self::Cluster { client, connection } => {
                let connect = async || {
                    choose_crypto();
                    client.get_async_connection().await
                };
                let mut connection = connection.get_or_try_init(connect).await?.clone();
                question.invoke_async(&mut connection).await
            }
        }
    }
}

/// rustls panics if the process has not chosen, and its crates enable none or several.
fn choose_crypto() {
    #[cfg(feature = "redis-tls")]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Somebody else was faster: as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}
