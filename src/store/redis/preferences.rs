//! What replicas have learnt, in a stream of Redis: [`PreferenceLog`].

use super::question::Script;
use super::{RedisStore, milliseconds};
use crate::preference::{LOG_CAPACITY, Learnt, LogFuture, PreferenceLog, Slot};

/// Entries that are read at a time.
const PAGE: usize = 1_000;

static SEED: Script = Script::new(
    r"
redis.call('SET', KEYS[1], ARGV[1], 'NX')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('GET', KEYS[1])",
);

/// `ARGV` is the expiry, the length of the log, and then the entries. The seed lives as long as what was hashed with it.
static APPEND: Script = Script::new(
    r"
for n = 3, #ARGV do
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'e', ARGV[n])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return redis.status_reply('OK')",
);

static READ: Script = Script::new("return redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])");

impl RedisStore {
    fn log_key(&self, what: &str) -> String {
        self.key("preferences", what)
    }
}

/// An entry as it is stored: the resource in hexadecimal digits, and the slot's name.
fn written(learnt: &Learnt) -> String {
    format!("{:016x} {}", learnt.resource, learnt.slot)
}

/// Whatever else is in the log is passed over.
fn read(entry: &str) -> Option<Learnt> {
    let (resource, slot) = entry.split_once(' ')?;
    let slot = [Slot::Primary, Slot::Fallback].into_iter().find(|known| known.as_str() == slot)?;
    Some(Learnt::new(u64::from_str_radix(resource, 16).ok()?, slot))
}

impl PreferenceLog for RedisStore {
    fn seed(&self, proposed: u64) -> LogFuture<'_, u64> {
        Box::pin(async move {
            let mut question = SEED.key(self.log_key("seed"));
            // As a text: Redis counts with a sign.
            question.arg(proposed.to_string()).arg(milliseconds(self.ttl));
            let seed: String = self.ask(&question, true).await?;
            Ok(seed.parse()?)
        })
    }

    fn append<'a>(&'a self, learnt: &'a [Learnt]) -> LogFuture<'a, ()> {
        Box::pin(async move {
            // One script holds Redis up for as long as it runs.
            for page in learnt.chunks(PAGE) {
                let mut question = APPEND.key(self.log_key("log"));
                question.key(self.log_key("seed")).arg(milliseconds(self.ttl)).arg(LOG_CAPACITY);
                for learnt in page {
                    question.arg(written(learnt));
                }
                let _: String = self.ask(&question, true).await?;
            }
            Ok(())
        })
    }

    fn read<'a>(&'a self, after: Option<&'a str>) -> LogFuture<'a, (Vec<Learnt>, Option<String>)> {
        Box::pin(async move {
            let from = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
            let mut question = READ.key(self.log_key("log"));
            question.arg(from).arg(PAGE);
            let found: Vec<(String, Vec<String>)> = self.ask(&question, true).await?;
            let last = found.last().map(|(place, _)| place.clone());
            let entries = found.iter().filter_map(|(_, fields)| read(fields.get(1)?));
            Ok((entries.collect(), last))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_were_written_and_others_passed_over() {
        for learnt in [Learnt::new(0, Slot::Primary), Learnt::new(u64::MAX - 1, Slot::Fallback)] {
            assert_eq!(read(&written(&learnt)), Some(learnt));
        }
        for other in ["", "0000000000000000", "xyz fallback", "00 other"] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
