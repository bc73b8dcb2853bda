//! The scripts: each is one atomic step, and all its keys lie in one cluster slot.
//!
//! They are sent whole with every call (`EVAL`, which the server compiles once): a server that restarted, failed over
//! or flushed its scripts has nothing to be told first. Scripts do not roll back, so nothing may fail after the first
//! write: the kinds of all keys and the user's permissions are checked before it. That is also why every key is
//! declared: in the middle of a cluster's move a script that was not told to the server first would fail half way.

/// Reads the head and the clock. `KEYS[1]` is the head's key, `ARGV[1]` the latest clock that the caller was shown.
///
/// The clock never goes back behind the last event: the server's may be set back, and another server's may be behind.
macro_rules! read_head {
    () => {
        r"
local number, hash, clock = '0', string.rep('0', 64), '0'
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' then
  if kind == 'string' then
    number, hash, clock = string.match(redis.call('GET', KEYS[1]), '^(%d+) (%x+) (%d+)$')
  end
  if kind ~= 'string' or not number then
    return redis.error_reply('DAYPASS ' .. KEYS[1] .. ' does not hold the head of a journal')
  end
end
local time = redis.call('TIME')
local now = math.max(time[1] * 1000 + math.floor(time[2] / 1000), tonumber(clock), tonumber(ARGV[1]))
"
    };
}

/// The text that a key holds, or false; of what is no text, or too long, an empty one.
macro_rules! read_text {
    () => {
        r"
local function text(key, longest)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return false end
  if kind ~= 'string' or redis.call('STRLEN', key) > longest then return '' end
  return redis.call('GET', key)
end
"
    };
}

/// KEYS: head, then the rows
/// ARGV: latest clock, longest value
/// Answers the head's number and hash, the clock in ms, and the values.
pub const LOOK: &str = concat!(
    "#!lua flags=no-writes",
    read_head!(),
    read_text!(),
    r"
local values = {}
for i = 2, #KEYS do values[i - 1] = text(KEYS[i], tonumber(ARGV[2])) end
return {number, hash, string.format('%.0f', now), values}
"
);

/// KEYS: head, due
/// ARGV: latest clock, how many at most
/// Answers the clock in ms, what is due with its moments, and the next with its moment.
pub const DUE: &str = concat!(
    "#!lua flags=no-writes",
    read_head!(),
    r"
now = string.format('%.0f', now)
local due = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
local next = redis.call('ZRANGE', KEYS[2], '(' .. now, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
return {now, due, next}
"
);

/// A page of an index. Ids are compared by bytes, as the set is ordered; the server's own comparison of text knows
/// languages.
///
/// KEYS: head, index, its ends
/// ARGV: latest clock, highest moment in ms, the id that comes before the page or nothing, how many at most
/// Answers ids with the moments they were entered at.
pub const SCAN: &str = concat!(
    "#!lua flags=no-writes",
    read_head!(),
    r"
local function is_higher(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end
local top, before, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local page, from = {}, 0
while true do
  local found =
    redis.call('ZRANGE', KEYS[2], top, '-inf', 'BYSCORE', 'REV', 'LIMIT', from, limit, 'WITHSCORES')
  if #found == 0 then return page end
  for i = 1, #found, 2 do
    local id, entered = found[i], found[i + 1]
    if before == '' or tonumber(entered) ~= tonumber(top) or is_higher(before, id) then
      local ends = redis.call('ZSCORE', KEYS[3], id)
      if not ends or tonumber(ends) > now then
        page[#page + 1] = id
        page[#page + 1] = entered
        if #page == limit * 2 then return page end
      end
    end
  end
  from = from + limit
end
"
);

/// A change of the journal. First everything is read and checked, then planned, then the user's permissions for the
/// plan are checked; only then the first write, and after it nothing can fail.
macro_rules! commit {
    () => {
        r"
local at = 5
local function take() at = at + 1 return ARGV[at] end
local function take_key() return KEYS[tonumber(take())] end
local is_marks = ARGV[2] == ''
if not is_marks and number .. ' ' .. hash ~= ARGV[2] then
  local first = redis.pcall('XRANGE', KEYS[2], ARGV[3] .. '-0', ARGV[3] .. '-0')
  return {'moved', first[1] and first[1][2][2] or ''}
end
for _ = 1, tonumber(take()) do
  local key, is_there, expected = take_key(), take(), take()
  local value = text(key, tonumber(ARGV[5]))
  if is_there == '1' then expected = value == expected
  elseif is_there == '0' then expected = not value
  else expected = value end
  if not expected then return {'moved', ''} end
end
local before = take()
if before ~= '' and now >= tonumber(before) then return {'late', ''} end
local seen = take()
local late = 0
if seen ~= '' then late = math.max(now - tonumber(seen), 0) end

local plan, kinds, indexes = {}, {[KEYS[2]] = 'stream'}, {}
local function planned(...) plan[#plan + 1] = {...} end
local count = tonumber(take())
for _ = 1, count do
  local what, key = take(), take_key()
  if what == 'set' then
    local value, keep = take(), take()
    kinds[key] = 'string'
    if keep == '' then planned('SET', key, value) else planned('SET', key, value, 'PX', keep) end
  elseif what == 'give' then
    -- It ends when it was to end, however long the change took to arrive.
    local value, left = take(), tonumber(take()) - late
    if left <= 0 then return {'late', ''} end
    kinds[key] = 'string'
    planned('SET', key, value, 'PX', string.format('%.0f', left))
  elseif what == 'del' then
    planned('DEL', key)
  elseif what == 'due' then
    kinds[key] = 'zset'
    planned('ZADD', key, take(), take())
  elseif what == 'notdue' then
    kinds[key] = 'zset'
    planned('ZREM', key, take())
  else
    local ends, id = take_key(), take()
    kinds[key], kinds[ends] = 'zset', 'zset'
    if what == 'leave' then
      planned('ZREM', key, id)
      planned('ZREM', ends, id)
    else
      local keep, ended = take(), false
      if redis.call('TYPE', ends).ok == 'zset' then ended = redis.call('ZSCORE', ends, id) end
      -- What is kept no longer has no place to keep.
      if ended and tonumber(ended) <= now then planned('ZREM', key, id) end
      planned('ZADD', key, 'NX', string.format('%.0f', now), id)
      if keep == '' then
        planned('ZREM', ends, id)
      else
        planned('ZADD', ends, string.format('%.0f', now + tonumber(keep)), id)
      end
      indexes[key] = ends
    end
  end
end
for key, expected in pairs(kinds) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= expected then
    return redis.error_reply('DAYPASS ' .. key .. ' is in the way: a ' .. kind .. ', not a ' .. expected)
  end
end
local last = ARGV[2]
local events = {}
for _ = 1, tonumber(take()) do
  local event = {'XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], take() .. '-0', 'hash', take(), 'document', take()}
  events[#events + 1] = event
  last = string.sub(event[6], 1, -3) .. ' ' .. event[8]
end
local head = {'SET', KEYS[1], last .. ' ' .. string.format('%.0f', now)}
-- What is done to an index after its ids: the ended ones go, and the whole if none is left that lasts.
local function tidied(index, ends)
  local ended = redis.call('ZRANGE', ends, '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, 1000)
  for _, id in ipairs(ended) do
    redis.call('ZREM', index, id)
    redis.call('ZREM', ends, id)
  end
  local final = redis.call('ZRANGE', ends, 0, 0, 'REV', 'WITHSCORES')[2]
  if final and redis.call('ZCARD', index) == redis.call('ZCARD', ends) then
    local left = string.format('%.0f', math.max(tonumber(final) - now, 1))
    redis.call('PEXPIRE', index, left)
    redis.call('PEXPIRE', ends, left)
  else
    redis.call('PERSIST', index)
    redis.call('PERSIST', ends)
  end
end
local function may(...)
  if not redis.acl_check_cmd(...) then error({err = 'NOPERM this user may not run ' .. (...)}) end
end
for _, command in ipairs(plan) do may(unpack(command)) end
if events[1] then may(unpack(events[1])) end
if not is_marks then may(unpack(head)) end
for index, ends in pairs(indexes) do
  may('ZREM', ends, '')
  may('ZRANGE', ends, '0', '0')
  may('ZCARD', index)
  may('PEXPIRE', index, '1')
  may('PERSIST', index)
end

-- The first write is the one that can still be refused: a stream takes no entry behind its last.
for i, event in ipairs(events) do
  if i == 1 then
    local added = redis.pcall(unpack(event))
    if type(added) == 'table' and added.err then
      return redis.error_reply('DAYPASS ' .. KEYS[2] .. ' is ahead of the journal: ' .. added.err)
    end
  else
    redis.call(unpack(event))
  end
end
for _, command in ipairs(plan) do redis.call(unpack(command)) end
for index, ends in pairs(indexes) do tidied(index, ends) end
if not is_marks then redis.call(unpack(head)) end
return {'done', ''}
"
    };
}

/// KEYS: head, events, then all others
/// ARGV: latest clock, head that was seen, number of the first event (both empty for marks, which leave the head alone), events that are kept, longest value; then, each
/// list with its length before it, what must be unchanged (key, whether it is there with this value, 1, is not, 0, or is at all, value), the moment it must be
/// before or nothing, the moment it was seen or nothing, writes (what, key, and what belongs to it), events (number, hash, document); keys by number
/// Answers `done`, `late`, or `moved` with the hash of the event that came first.
pub const COMMIT: &str = concat!("#!lua", read_head!(), read_text!(), commit!());

/// The same, also when the server is out of memory: for changes that take access away.
pub const COMMIT_ANYHOW: &str = concat!("#!lua flags=allow-oom", read_head!(), read_text!(), commit!());

/// Ends grants, whatever their keys hold, and also when the server is out of memory. The counters of their uses stay:
/// should the server lose this deletion, a grant that comes back must not come back with all its uses.
///
/// KEYS: grants
/// Answers for each whether there was one.
pub const REVOKE: &str = r"#!lua flags=allow-oom
local ended = {}
for i, key in ipairs(KEYS) do ended[i] = redis.call('DEL', key) end
return ended
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
