//! [`Slot`]: a connection that is made when it is needed, and thrown away when it is of no more use.
//!
//! After a failover the old address may lead to another server, while the connection still leads to the one that
//! was demoted, or to a machine that is gone and says nothing. So whatever failed with no answer, or with one that says
//! that this is not the server for it, is not tried on that connection again.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use tokio::sync::watch;

/// After so long without a sign of life, the system takes the other side for dead. Questions have their own time limit; this
/// is for connections that nobody asks anything, or that were thrown away with something still to be sent.
const SILENCE: Duration = Duration::from_secs(10);

/// A connection that is there, or on its way; or why it could not be made.
type Made<C> = watch::Receiver<Option<RedisResult<C>>>;

/// A place for a connection. Clones share it.
pub(super) struct Slot<C>(Arc<Mutex<Option<Made<C>>>>);

impl<C: Clone + Send + Sync + 'static> Slot<C> {
    /// The connection of now. If there is none, `connect` makes it: for all who ask meanwhile, and in a task of its own, so
    /// that those who run out of time do not begin it again and again.
    pub(super) fn current<F>(&self, connect: impl FnOnce() -> F) -> Made<C>
    where
        F: Future<Output = RedisResult<C>> + Send + 'static,
    {
        let mut slot = self.lock();
        if let Some(made) = slot.as_ref().filter(|made| may_serve(made)) {
            return made.clone();
        }
        let (sender, made) = watch::channel(None);
        let connecting = connect();
        tokio::spawn(async move { sender.send_replace(Some(connecting.await)) });
        *slot = Some(made.clone());
        made
    }

    /// Throws `old` away, if nobody has done so yet: a newer connection stays.
    pub(super) fn discard(&self, old: &Made<C>) {
        self.lock().take_if(|made| made.same_channel(old));
    }

    /// Every change is one assignment: a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Option<Made<C>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn may_serve<C>(made: &Made<C>) -> bool {
    match &*made.borrow() {
        Some(made) => made.is_ok(),
        // Closed: the runtime in which it was begun is gone.
        None => made.has_changed().is_ok(),
    }
}

/// The connection, once it is there.
pub(super) async fn wait_for<C: Clone>(made: &mut Made<C>) -> RedisResult<C> {
    match made.wait_for(Option::is_some).await {
        Ok(made) => made.as_ref().expect("waited for").clone(),
        Err(_) => Err(RedisError::from(io::Error::from(io::ErrorKind::BrokenPipe))),
    }
}

impl<C> Clone for Slot<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Default for Slot<C> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Connects to a single Redis. `patience` is a question's.
pub(super) async fn connect(client: Client, patience: Duration) -> RedisResult<MultiplexedConnection> {
    choose_crypto();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        // Whoever asks has a time limit of his own.
        .set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// Connects to the nodes of a cluster.
///
/// It waits for a node that does not answer in vain twice: among the nodes that it was given, and among those that they
/// name. Half of a question's patience is left then for the question.
pub(super) async fn connect_to_cluster(
    client: ClusterClient,
    patience: Duration,
) -> RedisResult<ClusterConnection> {
    choose_crypto();
    let config = ClusterConfig::new()
        .set_connection_timeout(patience / 4)
        // The client asks its nodes questions of its own, and while it waits, nothing else goes on.
        .set_response_timeout(patience / 2);
    client.get_async_connection_with_config(config).await
}

/// For connections of ours; a client that the application made has its own.
pub(super) fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(SILENCE);
    // Not every system has these.
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    return TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive.with_interval(SILENCE / 5))
        .set_user_timeout(SILENCE);
    #[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
    return TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
}

/// rustls panics if the process has not chosen, and its crates enable none or several.
fn choose_crypto() {
    #[cfg(feature = "redis-tls")]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Somebody else was faster: as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    async fn get(slot: &Slot<u8>, made: u8) -> (Made<u8>, u8) {
        let mut place = slot.current(async move || Ok(made));
        let connection = wait_for(&mut place).await.unwrap();
        (place, connection)
    }

    #[tokio::test]
    async fn a_connection_is_thrown_away_once_and_its_successor_stays() {
        let slot = Slot::default();
        let (first, _) = get(&slot, 1).await;
        assert_eq!(get(&slot.clone(), 2).await.1, 1, "shared");
        slot.discard(&first);
        assert_eq!(get(&slot, 3).await.1, 3);
        // Another question that was asked on the first one fails only now.
        slot.discard(&first);
        assert_eq!(get(&slot, 4).await.1, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_takes_long_is_made_once_though_those_who_wait_give_up() {
        let slot = Slot::default();
        let slow = || async {
            sleep(Duration::from_secs(3)).await;
            Ok(1)
        };
        for _ in 0..2 {
            let mut made = slot.current(slow);
            assert!(timeout(Duration::from_secs(1), wait_for(&mut made)).await.is_err());
        }
        let mut made = slot.current(slow);
        assert!(matches!(timeout(Duration::from_millis(1_100), wait_for(&mut made)).await, Ok(Ok(1))));
    }

    #[tokio::test]
    async fn a_connection_that_could_not_be_made_fails_those_who_wait_and_is_tried_anew_by_the_next() {
        let slot = Slot::default();
        let refused = || async { Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()) };
        let (mut one, mut other) = (slot.current(refused), slot.current(async || Ok(1)));
        assert!(wait_for(&mut one).await.is_err() && wait_for(&mut other).await.is_err());
        assert_eq!(get(&slot, 2).await.1, 2);
    }

    #[test]
    fn a_machine_that_is_gone_is_noticed_by_the_system() {
        let settings = tcp_settings();
        assert!(settings.nodelay() && settings.keepalive().is_some());
        #[cfg(target_os = "linux")]
        assert_eq!(settings.user_timeout(), Some(SILENCE));
    }
}
