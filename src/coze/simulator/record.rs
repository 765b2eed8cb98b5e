//! [`Recorded`]: what arrived, for assertions and counts.

use std::collections::VecDeque;
use std::time::Duration;

use http::{Method, Version};

use super::AccountId;

/// A request that was answered. The credential itself is not kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recorded {
    /// Counts from 1, in the order of the answers.
    pub sequence: u64,
    /// When it was answered, since the simulator's start.
    pub at: Duration,
    /// Counts connections from 1.
    pub connection: u64,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its query, if it had one.
    pub query: Option<String>,
    /// Whose valid token it bore, if it bore one.
    pub account: Option<AccountId>,
    /// How many bytes of its body had been read when it was answered.
    pub body_bytes: u64,
    /// The answer's status.
    pub status: u16,
    /// The answer's `code`, if its body had one.
    pub code: Option<i64>,
}

/// The last requests, and how many there were.
#[derive(Debug)]
pub(super) struct Record {
    capacity: usize,
    count: u64,
    last: VecDeque<Recorded>,
}

impl Record {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, count: 0, last: VecDeque::new() }
    }

    pub(super) fn add(&mut self, mut request: Recorded) {
        self.count += 1;
        request.sequence = self.count;
        if self.capacity == 0 {
            return;
        }
        if self.last.len() == self.capacity {
            self.last.pop_front();
        }
        self.last.push_back(request);
    }

    pub(super) fn list(&self) -> Vec<Recorded> {
        self.last.iter().cloned().collect()
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }
}
