//! What may happen between a client and a server, and neither side can bring about.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// An address that leads to a server on loopback, and to another later.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    target: AtomicU16,
    /// How often everything that was connected fell silent.
    silences: watch::Sender<u64>,
    cut_after: Mutex<Option<Vec<u8>>>,
}

impl Proxy {
    /// It leads nowhere at first.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let known = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let target = known.target.load(Ordering::SeqCst);
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await {
                    connections.spawn(carry(Arc::clone(&known), client, server));
                }
            }
        });
        Self { port, shared, task }
    }

    pub async fn to(port: u16) -> Self {
        let this = Self::start().await;
        this.lead_to(port);
        this
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// From now on; connections that are there stay where they are.
    pub fn lead_to(&self, port: u16) {
        self.shared.target.store(port, Ordering::SeqCst);
    }

    /// As if the machine at the other end had vanished: what is connected stays so, and carries nothing any more.
    pub fn fall_silent(&self) {
        self.shared.silences.send_modify(|silences| *silences += 1);
    }

    /// The next request with this in it reaches the server. Its answer does not come back: the connection breaks.
    pub fn cut_after(&self, part: &str) {
        *self.shared.cut_after.lock().unwrap() = Some(part.as_bytes().to_vec());
    }

    /// Whether that request has come by.
    pub fn has_cut(&self) -> bool {
        self.shared.cut_after.lock().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(shared: Arc<Shared>, mut client: TcpStream, mut server: TcpStream) {
    let mut silences = shared.silences.subscribe();
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut is_cut = false;
    loop {
        tokio::select! {
            Ok(length @ 1..) = client.read(&mut asked) => {
                let asked = &asked[..length];
                let is_it = |part: &Vec<u8>| asked.windows(part.len()).any(|window| window == part);
                is_cut |= shared.cut_after.lock().unwrap().take_if(|part| is_it(part)).is_some();
                if server.write_all(asked).await.is_err() {
                    return;
                }
            }
            Ok(length @ 1..) = server.read(&mut answered) => {
                if is_cut || client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
            Ok(()) = silences.changed() => std::future::pending().await,
            else => return,
        }
    }
}
