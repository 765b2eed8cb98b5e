//! [`Question`]: a script with its keys and arguments.

use redis::{Cmd, ToRedisArgs, cmd};

/// A script in Lua, of some lines: what has to be one step is one.
///
/// It is sent whole each time. Its hash would be hardly shorter, and not be known to a server that has restarted, nor to a
/// replica that became the primary.
pub(super) struct Script(&'static str);

impl Script {
    pub(super) const fn new(code: &'static str) -> Self {
        Self(code)
    }

    /// The question whose first key this is.
    pub(super) fn key(&self, key: impl ToRedisArgs) -> Question {
        let mut question = Question { code: self.0, keys: Vec::new(), arguments: Vec::new() };
        question.key(key);
        question
    }
}

/// One question, which may be sent more than once.
pub(super) struct Question {
    code: &'static str,
    keys: Vec<Vec<u8>>,
    arguments: Vec<Vec<u8>>,
}

impl Question {
    /// Adds a key. All keys of a question have to be in the same slot of a cluster.
    pub(super) fn key(&mut self, key: impl ToRedisArgs) -> &mut Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    pub(super) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        argument.write_redis_args(&mut self.arguments);
        self
    }

    pub(super) fn command(&self) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(self.code).arg(self.keys.len()).arg(&self.keys).arg(&self.arguments);
        command
    }
}
