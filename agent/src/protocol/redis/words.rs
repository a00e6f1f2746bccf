//! Command words.

/// Command names of Redis 7 and 8 and of Valkey, upper case, sorted: what makes an array of bulk strings a request
/// rather than a reply. Source: `COMMAND LIST` of Redis 7.0 and the command pages of later versions.
const COMMANDS: &[&str] = &[
    "ACL",
    "APPEND",
    "ASKING",
    "AUTH",
    "BGREWRITEAOF",
    "BGSAVE",
    "BITCOUNT",
    "BITFIELD",
    "BITFIELD_RO",
    "BITOP",
    "BITPOS",
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "CLIENT",
    "CLUSTER",
    "COMMAND",
    "CONFIG",
    "COPY",
    "DBSIZE",
    "DEBUG",
    "DECR",
    "DECRBY",
    "DEL",
    "DELIFEQ",
    "DISCARD",
    "DUMP",
    "ECHO",
    "EVAL",
    "EVALSHA",
    "EVALSHA_RO",
    "EVAL_RO",
    "EXEC",
    "EXISTS",
    "EXPIRE",
    "EXPIREAT",
    "EXPIRETIME",
    "FAILOVER",
    "FCALL",
    "FCALL_RO",
    "FLUSHALL",
    "FLUSHDB",
    "FUNCTION",
    "GEOADD",
    "GEODIST",
    "GEOHASH",
    "GEOPOS",
    "GEORADIUS",
    "GEORADIUSBYMEMBER",
    "GEORADIUSBYMEMBER_RO",
    "GEORADIUS_RO",
    "GEOSEARCH",
    "GEOSEARCHSTORE",
    "GET",
    "GETBIT",
    "GETDEL",
    "GETEX",
    "GETRANGE",
    "GETSET",
    "HDEL",
    "HELLO",
    "HEXISTS",
    "HEXPIRE",
    "HEXPIREAT",
    "HEXPIRETIME",
    "HGET",
    "HGETALL",
    "HGETDEL",
    "HGETEX",
    "HINCRBY",
    "HINCRBYFLOAT",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HMSET",
    "HPERSIST",
    "HPEXPIRE",
    "HPEXPIREAT",
    "HPEXPIRETIME",
    "HPTTL",
    "HRANDFIELD",
    "HSCAN",
    "HSET",
    "HSETEX",
    "HSETNX",
    "HSTRLEN",
    "HTTL",
    "HVALS",
    "INCR",
    "INCRBY",
    "INCRBYFLOAT",
    "INFO",
    "KEYS",
    "LASTSAVE",
    "LATENCY",
    "LCS",
    "LINDEX",
    "LINSERT",
    "LLEN",
    "LMOVE",
    "LMPOP",
    "LOLWUT",
    "LPOP",
    "LPOS",
    "LPUSH",
    "LPUSHX",
    "LRANGE",
    "LREM",
    "LSET",
    "LTRIM",
    "MEMORY",
    "MGET",
    "MIGRATE",
    "MODULE",
    "MONITOR",
    "MOVE",
    "MSET",
    "MSETEX",
    "MSETNX",
    "MULTI",
    "OBJECT",
    "PERSIST",
    "PEXPIRE",
    "PEXPIREAT",
    "PEXPIRETIME",
    "PFADD",
    "PFCOUNT",
    "PFDEBUG",
    "PFMERGE",
    "PFSELFTEST",
    "PING",
    "PSETEX",
    "PSUBSCRIBE",
    "PSYNC",
    "PTTL",
    "PUBLISH",
    "PUBSUB",
    "PUNSUBSCRIBE",
    "QUIT",
    "RANDOMKEY",
    "READONLY",
    "READWRITE",
    "RENAME",
    "RENAMENX",
    "REPLCONF",
    "REPLICAOF",
    "RESET",
    "RESTORE",
    "RESTORE-ASKING",
    "ROLE",
    "RPOP",
    "RPOPLPUSH",
    "RPUSH",
    "RPUSHX",
    "SADD",
    "SAVE",
    "SCAN",
    "SCARD",
    "SCRIPT",
    "SDIFF",
    "SDIFFSTORE",
    "SELECT",
    "SENTINEL",
    "SET",
    "SETBIT",
    "SETEX",
    "SETNX",
    "SETRANGE",
    "SHUTDOWN",
    "SINTER",
    "SINTERCARD",
    "SINTERSTORE",
    "SISMEMBER",
    "SLAVEOF",
    "SLOWLOG",
    "SMEMBERS",
    "SMISMEMBER",
    "SMOVE",
    "SORT",
    "SORT_RO",
    "SPOP",
    "SPUBLISH",
    "SRANDMEMBER",
    "SREM",
    "SSCAN",
    "SSUBSCRIBE",
    "STRLEN",
    "SUBSCRIBE",
    "SUBSTR",
    "SUNION",
    "SUNIONSTORE",
    "SUNSUBSCRIBE",
    "SWAPDB",
    "SYNC",
    "TIME",
    "TOUCH",
    "TTL",
    "TYPE",
    "UNLINK",
    "UNSUBSCRIBE",
    "UNWATCH",
    "VADD",
    "VCARD",
    "VDIM",
    "VEMB",
    "VGETATTR",
    "VINFO",
    "VISMEMBER",
    "VLINKS",
    "VRANDMEMBER",
    "VREM",
    "VSETATTR",
    "VSIM",
    "WAIT",
    "WAITAOF",
    "WATCH",
    "XACK",
    "XACKDEL",
    "XADD",
    "XAUTOCLAIM",
    "XCLAIM",
    "XDEL",
    "XDELEX",
    "XGROUP",
    "XINFO",
    "XLEN",
    "XPENDING",
    "XRANGE",
    "XREAD",
    "XREADGROUP",
    "XREVRANGE",
    "XSETID",
    "XTRIM",
    "ZADD",
    "ZCARD",
    "ZCOUNT",
    "ZDIFF",
    "ZDIFFSTORE",
    "ZINCRBY",
    "ZINTER",
    "ZINTERCARD",
    "ZINTERSTORE",
    "ZLEXCOUNT",
    "ZMPOP",
    "ZMSCORE",
    "ZPOPMAX",
    "ZPOPMIN",
    "ZRANDMEMBER",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZRANGESTORE",
    "ZRANK",
    "ZREM",
    "ZREMRANGEBYLEX",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
    "ZREVRANGE",
    "ZREVRANGEBYLEX",
    "ZREVRANGEBYSCORE",
    "ZREVRANK",
    "ZSCAN",
    "ZSCORE",
    "ZUNION",
    "ZUNIONSTORE",
];

/// Prefixes of the module commands that clients are known to send.
const MODULES: &[&str] =
    &["AI.", "BF.", "CF.", "CMS.", "FT.", "GRAPH.", "JSON.", "TDIGEST.", "TFUNCTION.", "TOPK.", "TS."];

/// Commands that are understood when typed as a plain line. A short list: a line of text is easily something else
/// (`QUIT` is also SMTP's and memcached's, `GET /` is HTTP's).
const INLINE: &[&str] =
    &["COMMAND", "DBSIZE", "ECHO", "FLUSHALL", "INFO", "LASTSAVE", "MONITOR", "PING", "RESET", "ROLE"];

/// Commands whose first argument is a command of its own (`CLIENT SETINFO`).
const CONTAINERS: &[&str] = &[
    "ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DEBUG", "FUNCTION", "LATENCY", "MEMORY", "MODULE",
    "OBJECT", "PUBSUB", "SCRIPT", "SENTINEL", "SLOWLOG", "XGROUP", "XINFO",
];

/// Longest command or sub-command name that is believed, bytes.
pub(super) const MAX_WORD: usize = 64;

/// What the first word of an array of bulk strings looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// A command of Redis, or in the form of a module's: a request.
    Command,
    /// Nothing but capitals: a command of a later version, or somebody's data.
    Unclear,
    /// No command.
    Other,
}

/// Judges a complete first word.
pub(super) fn judge(word: &[u8]) -> Word {
    if COMMANDS.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes())) || is_module(word) {
        return Word::Command;
    }
    let capitals = word.first().is_some_and(u8::is_ascii_uppercase)
        && word.iter().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'.' | b'_' | b'-'));
    match capitals {
        true if word.contains(&b'.') => Word::Command,
        true => Word::Unclear,
        false => Word::Other,
    }
}

fn is_module(word: &[u8]) -> bool {
    MODULES.iter().any(|prefix| {
        word.split_at_checked(prefix.len()).is_some_and(|(head, tail)| {
            head.eq_ignore_ascii_case(prefix.as_bytes())
                && !tail.is_empty()
                && tail.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        })
    })
}

/// Whether this word (any case) may begin an inline command.
pub(super) fn is_inline(word: &[u8]) -> bool {
    INLINE.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether these bytes could still become a word that begins an inline command.
pub(super) fn begins_inline(bytes: &[u8]) -> bool {
    INLINE
        .iter()
        .any(|known| known.as_bytes().get(..bytes.len()).is_some_and(|head| head.eq_ignore_ascii_case(bytes)))
}

/// Whether the command (upper case) has sub-commands.
pub(super) fn is_container(name: &str) -> bool {
    CONTAINERS.contains(&name)
}

/// From which argument on (0 is the first after name and sub-command) nothing of this command is kept, because
/// passwords and keys travel there.
pub(super) fn first_secret(name: &str, sub: Option<&str>) -> Option<u64> {
    match (name, sub) {
        // A container whose sub-command was not understood may be any of those below.
        ("AUTH", _)
        | ("CONFIG", Some("SET") | None)
        | ("ACL", Some("SETUSER") | None)
        | ("SENTINEL", Some("SET" | "CONFIG") | None)
        | ("MODULE", Some("LOAD" | "LOADEX") | None) => Some(0),
        // HELLO protover [AUTH user password] [SETNAME name]
        ("HELLO", _) => Some(1),
        // MIGRATE host port key db timeout [COPY] [REPLACE] [AUTH password | AUTH2 user password] [KEYS …]
        ("MIGRATE", _) => Some(5),
        _ => None,
    }
}
