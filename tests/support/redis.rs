//! A Redis of the test's own: a process on a free port, with a directory of its own, gone with the test.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

pub struct RedisServer {
    process: Option<Child>,
    pub port: u16,
    directory: PathBuf,
    options: Vec<String>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these options, beside those that make every write durable before it is answered.
    pub fn start_with(options: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("redis-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut server = Self {
            process: None,
            port: 0,
            directory,
            options: options.iter().map(|option| option.to_string()).collect(),
        };
        // A port that is free now may be taken by the time that Redis wants it.
        for _ in 0..5 {
            server.port = free_port();
            if server.try_start() {
                return server;
            }
        }
        panic!("redis-server does not start: {}", server.log());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// Starts it again, with what it had written.
    pub fn start_again(&mut self) {
        assert!(
            self.process.is_none() && self.try_start(),
            "redis-server does not start again: {}",
            self.log()
        );
    }

    /// … and with these options too, from now on.
    pub fn start_again_with(&mut self, options: &[&str]) {
        self.options.extend(options.iter().map(|option| option.to_string()));
        self.start_again();
    }

    /// Kills it on the spot.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops it in its tracks: it holds its connections, and takes new ones, and answers nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// … and lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        send_signal(self.process.as_ref().unwrap().id(), name);
    }

    /// Whether it is up, and listens.
    fn try_start(&mut self) -> bool {
        let log = File::options().create(true).append(true).open(self.directory.join("log")).unwrap();
        let plain = if self.options.iter().any(|option| option == "--port") { None } else { Some(self.port) };
        let process = Command::new("redis-server")
            .args(plain.into_iter().flat_map(|port| ["--port".to_owned(), port.to_string()]))
            .args(["--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always", "--save", ""])
            .args(self.options.iter().map(|option| option.replace("PORT", &self.port.to_string())))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error}. `tests/run` installs it"));
        self.process = Some(process);
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.process = None;
                return false;
            }
            if TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        false
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Sends a signal to a process.
pub fn send_signal(process: u32, name: &str) {
    // The shell's own `kill`: the program may be missing.
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status().unwrap();
    assert!(sent.success());
}

fn free_port() -> u16 {
    // Nodes of a cluster take another, ten thousand above.
    loop {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        if port < 55_000 {
            return port;
        }
    }
}
