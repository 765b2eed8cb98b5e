//! [`Server`]: asks, and asks again where that does no harm.
//!
//! The clients of the `redis` crate do not repeat anything here. That of a cluster would, by default, also what may have been
//! done: a save, asked a second time, finds its own version there, and takes it for another's.

use std::future::Future;
use std::io;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::SingleNodeRoutingInfo;
use redis::{
    Client, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value, from_redis_value,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::connection::{Slot, connect, connect_to_cluster, wait_for};
use super::question::Question;

/// The wait before a question is repeated that was turned down. It doubles each time: what is in the way may be gone at
/// once (a slot that has moved), or in some seconds (a node that starts).
const FIRST_WAIT: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub(super) enum Server {
    Single { client: Box<Client>, slot: Slot<MultiplexedConnection> },
    Cluster { client: Box<ClusterClient>, slot: Slot<ClusterConnection> },
}

/// Why there is no answer.
enum Failure {
    /// The server has not done it, and says so. Another may do it, or this one later.
    TurnedDown(RedisError),
    /// Nobody knows whether it was done.
    Lost(RedisError),
    /// Asking again would bring the same.
    Final(RedisError),
}

impl Server {
    /// The answer, within `patience`.
    ///
    /// A question that was turned down is repeated until there is no time left. One that was lost is repeated once, and only
    /// if it `may_repeat`: if its answer is the same each time.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        question: &Question,
        may_repeat: bool,
        patience: Duration,
    ) -> Result<T, RedisError> {
        let mut attempt =
            Attempt { question, patience, until: Instant::now() + patience, may_repeat, node: None };
        let mut wait = FIRST_WAIT;
        loop {
            match self.attempt(&attempt).await {
                Ok(answer) => return Ok(from_redis_value(answer)?),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Lost(error)) if !attempt.may_repeat => return Err(error),
                Err(Failure::Lost(_)) => (attempt.may_repeat, attempt.node) = (false, None),
                Err(Failure::TurnedDown(error)) => {
                    let is_sent_on = attempt.node.is_some();
                    attempt.node = node_to_ask(&error).filter(|_| !is_sent_on);
                    if attempt.node.is_some() {
                        continue;
                    }
                    if Instant::now() + wait >= attempt.until {
                        return Err(error);
                    }
                    sleep(wait).await;
                    wait *= 2;
                }
            }
        }
    }

    async fn attempt(&self, attempt: &Attempt<'_>) -> Result<Value, Failure> {
        let patience = attempt.patience;
        match self {
            Self::Single { client, slot } => {
                attempt.on(slot, || connect(Client::clone(client), patience)).await
            }
            Self::Cluster { client, slot } => {
                attempt.on(slot, || connect_to_cluster(ClusterClient::clone(client), patience)).await
            }
        }
    }
}

struct Attempt<'a> {
    question: &'a Question,
    patience: Duration,
    until: Instant,
    may_repeat: bool,
    /// The node to which another has sent us, for this question alone: the slot is on its way there.
    node: Option<SingleNodeRoutingInfo>,
}

impl Attempt<'_> {
    async fn on<C, F>(&self, slot: &Slot<C>, connect: impl FnOnce() -> F) -> Result<Value, Failure>
    where
        C: Ask,
        F: Future<Output = RedisResult<C>> + Send + 'static,
    {
        let mut made = slot.current(connect);
        let was_there = made.borrow().is_some();
        let connected = timeout_at(self.until, wait_for(&mut made)).await;
        let connection =
            connected.unwrap_or_else(|_| Err(late("no connection in time"))).map_err(Failure::Final)?;

        let left = self.until.saturating_duration_since(Instant::now());
        // A connection that was there before may be dead. Then there has to be time for a new one.
        let limit = if self.may_repeat && was_there { left / 2 } else { left };
        let answered = timeout(limit, connection.ask(self.question, self.node.clone())).await;
        answered.unwrap_or_else(|_| Err(late("no answer in time"))).map_err(|error| {
            let failure = judge(error);
            if failure.is_the_connections() {
                slot.discard(&made);
            }
            failure
        })
    }
}

impl Failure {
    /// Whether another connection may lead to a better server.
    fn is_the_connections(&self) -> bool {
        match self {
            Self::TurnedDown(error) => !error.is_cluster_error(),
            Self::Lost(_) => true,
            Self::Final(_) => false,
        }
    }
}

fn judge(error: RedisError) -> Failure {
    use ServerErrorKind::{
        Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, ResponseError, TryAgain,
    };
    match error.kind() {
        ErrorKind::Server(Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain) => {
            Failure::TurnedDown(error)
        }
        // What a script runs into, as Redis 6 tells it. The first write of a script fails, so none was done.
        ErrorKind::Server(ResponseError)
            if error.detail().is_some_and(|detail| detail.contains("-READONLY ")) =>
        {
            Failure::TurnedDown(error)
        }
        // The last one: a cluster client that is looking for its nodes tells it of questions, too, that were sent.
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::ClusterConnectionNotFound => Failure::Lost(error),
        _ => Failure::Final(error),
    }
}

fn late(message: &'static str) -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, message).into()
}

/// Where an answer sends this one question, and no other. A cluster client connects to no node that has no slots: with the
/// first slot of a new node under way, the question is turned down in the end.
fn node_to_ask(error: &RedisError) -> Option<SingleNodeRoutingInfo> {
    if error.kind() != ErrorKind::Server(ServerErrorKind::Ask) {
        return None;
    }
    let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
    Some(SingleNodeRoutingInfo::ByAddress { host: host.to_owned(), port: port.parse().ok()? })
}

/// A connection, to one server or to many.
trait Ask: Clone + Send + Sync + 'static {
    async fn ask(self, question: &Question, node: Option<SingleNodeRoutingInfo>) -> RedisResult<Value>;
}

impl Ask for MultiplexedConnection {
    async fn ask(mut self, question: &Question, _: Option<SingleNodeRoutingInfo>) -> RedisResult<Value> {
        question.command().query_async(&mut self).await
    }
}

impl Ask for ClusterConnection {
    async fn ask(mut self, question: &Question, node: Option<SingleNodeRoutingInfo>) -> RedisResult<Value> {
        let Some(node) = node else { return question.command().query_async(&mut self).await };
        // In one piece: `ASKING` is for whatever comes next on the connection.
        let mut both = redis::pipe();
        both.cmd("ASKING").add_command(question.command());
        let mut answers = self.route_pipeline(both, 0, 2, node).await?;
        answers.pop().ok_or_else(|| late("no answer"))?.extract_error()
    }
}
