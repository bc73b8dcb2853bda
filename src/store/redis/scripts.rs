//! The scripts that change grants. Each is one atomic step, and all its keys lie in one cluster slot.
//!
//! They are sent whole with every call (`EVAL`, which the server compiles once): a server that restarted, failed over
//! or flushed its scripts has nothing to be told first. Scripts do not roll back, so what must never be missing comes
//! first: at a revocation the deletion, at a creation the record of it.

/// A new grant, recorded before it exists, so that no grant is without a record. Refused as a whole when the server
/// is out of memory. The memory of the call keeps its repeat from giving again what was revoked in between.
///
/// KEYS: grant, audit stream, audit number, memory of this call
/// ARGV: id, entries the stream keeps, longest value recorded, value, TTL in ms, how long the call is remembered in ms
/// Answers the number of the record, or 0 if there is such a grant.
pub const CREATE: &str = r"#!lua
local before = redis.call('GET', KEYS[4])
if before then return tonumber(before) end
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local recorded = ARGV[4]
if #recorded > tonumber(ARGV[3]) then recorded = 'sha1:' .. redis.sha1hex(recorded) end
local n = redis.call('INCR', KEYS[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*',
  'n', n, 'type', 'grant.created', 'grant', ARGV[1], 'value', recorded)
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
redis.call('SET', KEYS[4], n, 'PX', ARGV[6])
return n
";

/// Ends a grant, whatever the key holds, and also when the server is out of memory. A record that cannot be written
/// does not keep it from ending. The counter of its uses stays: should the server lose this deletion, the grant that
/// comes back must not come back with all its uses.
///
/// KEYS: grant, audit stream, audit number · ARGV: id, entries the stream keeps, longest value recorded, event type
/// Answers whether there was one, and why it was not recorded, or nothing.
pub const REVOKE: &str = r"#!lua flags=allow-oom
local was = redis.pcall('GET', KEYS[1])
if redis.call('DEL', KEYS[1]) == 0 then return {0, ''} end
if type(was) ~= 'string' then was = 'not a string' end
if #was > tonumber(ARGV[3]) then was = 'sha1:' .. redis.sha1hex(was) end
local n = redis.pcall('INCR', KEYS[3])
if type(n) == 'table' then return {1, n.err} end
local entry = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*',
  'n', n, 'type', ARGV[4], 'grant', ARGV[1], 'was', was)
if type(entry) == 'table' and entry.err then return {1, entry.err} end
return {1, ''}
";

/// Takes one use of each of some grants, or of none of them.
///
/// The grants' keys are arguments: a sidecar's user may read them and not write them, and Redis asks for both on
/// everything that is declared. That the grants still exist is asked before whether this check was answered already,
/// or the repeat of a consumed check would pass after the revocation.
///
/// A counter lives by a TTL of its own, renewed with every attempt: with the grant's, a grant that is extended after
/// its last use would come back with all its uses.
///
/// KEYS: memory of this check, then a counter for each grant
/// ARGV: how long the check is remembered and a counter lives, both in ms; then for each grant its key, the value
/// that was decided on, and its uses
/// Answers what stood in the way, and at which grant; or `taken`.
pub const TAKE_USES: &str = r"#!lua
local grants = #KEYS - 1
local values = {}
for i = 1, grants do
  values[i] = redis.call('GET', ARGV[3 * i])
  if not values[i] then return {'gone', i} end
end
if redis.call('GET', KEYS[1]) then return {'taken', 0} end
for i = 1, grants do
  if values[i] ~= ARGV[3 * i + 1] or redis.call('PTTL', ARGV[3 * i]) <= 0 then return {'changed', i} end
end
local used = {}
for i = 1, grants do
  used[i] = tonumber(redis.call('GET', KEYS[i + 1]) or '0')
  if used[i] >= tonumber(ARGV[3 * i + 2]) then
    redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])
    return {'exhausted', i}
  end
end
for i = 1, grants do
  redis.call('SET', KEYS[i + 1], used[i] + 1, 'PX', ARGV[2])
end
redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
return {'taken', 0}
";
