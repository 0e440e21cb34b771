/**
 * The steps that must not be torn apart, as Lua. Each runs alone in the server. A script that meets a refusal stops there, so the order of
 * its writes matters: what may be refused (adding) stands before what must not happen without it (acknowledging, removing).
 *
 * They need Redis 6.2. What differs between 6.2 and 7 is said where it is met.
 */
import { createHash } from "node:crypto";
import { REPLAY_CONSUMER } from "../../ports/broker.ts";

export interface Script {
  readonly text: string;
  /** SHA-1 of the text, by which EVALSHA names it. */
  readonly digest: string;
}

function script(text: string): Script {
  return { text, digest: createHash("sha1").update(text).digest("hex") };
}

/** Longer hand-back and replay notices are of no use to anybody: the newest is what wakes. */
const CONTROL_LENGTH = 1_000;

/**
 * Adds a batch, all or nothing (rulings 15). MULTI would not do: a wrong type of key is only found while EXEC runs, and the rest of the batch
 * would be written. Out of memory is noticed at the first XADD, before anything is written.
 * KEYS: the streams, each once. ARGV, per entry: number of its stream, number of strings, name, value, …
 */
export const PUBLISH = script(`
for _, stream in ipairs(KEYS) do
  local kind = redis.call('TYPE', stream).ok
  if kind ~= 'none' and kind ~= 'stream' then
    return redis.error_reply('WRONGTYPE "' .. stream .. '" holds a ' .. kind .. ', not a stream')
  end
end
local ids, at = {}, 1
while at <= #ARGV do
  local strings = tonumber(ARGV[at + 1])
  ids[#ids + 1] = redis.call('XADD', KEYS[tonumber(ARGV[at])], '*', unpack(ARGV, at + 2, at + 1 + strings))
  at = at + 2 + strings
end
return ids`);

/** Never part of JSON text (RFC 7464 uses it so too). */
export const TRACE_SEPARATOR = "\x1e";

/**
 * Adds trace events, publishes them when somebody listens, and removes what is too old; one command for hundreds of events, with no answer for each.
 * KEYS: stream. ARGV: least id that is kept or nothing for no stream, channel or nothing, the events with TRACE_SEPARATOR between them.
 */
export const TRACE = script(`
local oldest, channel, events = ARGV[1], ARGV[2], ARGV[3]
local from, call, find, sub, stream = 1, redis.call, string.find, string.sub, KEYS[1]
while true do
  local at = find(events, '\\30', from, true)
  local event = sub(events, from, at and at - 1)
  if oldest ~= '' then call('XADD', stream, '*', 'data', event) end
  if channel ~= '' then call('PUBLISH', channel, event) end
  if not at then break end
  from = at + 1
end
if oldest ~= '' then redis.call('XTRIM', KEYS[1], 'MINID', '~', oldest) end`);

/** KEYS: stream, dead-letter stream. ARGV: group, id, name, value, … */
export const DEAD_LETTER = script(`
local letter = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return letter`);

/**
 * Acknowledges what several callers asked for, and tells each of them apart. The plain total when all were pending, else 0 or 1 for each id.
 * KEYS: stream. ARGV: group, ids.
 */
export const ACKNOWLEDGE = script(`
local each, total = {}, 0
for at = 2, #ARGV do
  local one = redis.call('XACK', KEYS[1], ARGV[1], ARGV[at])
  each[at - 1] = one
  total = total + one
end
if total == #ARGV - 1 then return total end
return each`);

/** Ids that the consumer holds; a missing group holds nothing. Used by the scripts below. */
const HOLDS = `
local function holds(stream, group, consumer, id)
  local pending = redis.pcall('XPENDING', stream, group, id, id, 1, consumer)
  return pending.err == nil and #pending == 1
end`;

/** KEYS: stream. ARGV: group, consumer, ids. Answers the ids that were refreshed. */
export const REFRESH = script(`${HOLDS}
local held = {}
for at = 3, #ARGV do
  local id = ARGV[at]
  if holds(KEYS[1], ARGV[1], ARGV[2], id) then
    if #redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID') == 1 then held[#held + 1] = id end
  end
end
return held`);

/** KEYS: stream. ARGV: group, consumer, then id and attempt by turns. JUSTID keeps the counter as given. */
export const SET_ATTEMPTS = script(`${HOLDS}
for at = 3, #ARGV, 2 do
  if holds(KEYS[1], ARGV[1], ARGV[2], ARGV[at]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[at], 'RETRYCOUNT', ARGV[at + 1], 'JUSTID')
  end
end
return 0`);

/**
 * Takes entries over with an exact counter: XCLAIM adds one unless it is told the count. An entry that was deleted is gone from the pending
 * list after XCLAIM in Redis 7; Redis 6.2 answers nil and keeps it, so it is acknowledged here (known-traps B2).
 * KEYS: stream. ARGV: group, consumer, least idle time, attempts or '' to keep them, number of owners (0: any) and their names, ids. Answers
 * {entries, deleted ids}.
 */
export const CLAIM = script(`
local least, owners, taken, deleted = tonumber(ARGV[3]), tonumber(ARGV[5]), {}, {}
local robbed = {}
for at = 6, 5 + owners do robbed[ARGV[at]] = true end
for at = 6 + owners, #ARGV do
  local id = ARGV[at]
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  if pending.err == nil and #pending == 1 and pending[1][3] >= least and (owners == 0 or robbed[pending[1][2]]) then
    local count = ARGV[4] ~= '' and ARGV[4] or pending[1][4]
    local entry = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', count)[1]
    if entry and entry[2] then
      taken[#taken + 1] = entry
    else
      redis.call('XACK', KEYS[1], ARGV[1], id)
      deleted[#deleted + 1] = id
    end
  end
end
return {taken, deleted}`);

/** IDLE of a day makes an entry claimable whatever idle time is asked for (rulings 24). */
const CLAIMABLE_ms = 86_400_000;

/** KEYS: stream, control stream. ARGV: group, consumer, then id and attempt by turns. */
export const HAND_BACK = script(`${HOLDS}
for at = 3, #ARGV, 2 do
  if holds(KEYS[1], ARGV[1], ARGV[2], ARGV[at]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[at], 'IDLE', ${CLAIMABLE_ms}, 'RETRYCOUNT', ARGV[at + 1], 'JUSTID')
  end
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ${CONTROL_LENGTH}, '*', 'event', 'released', 'stream', KEYS[1], 'group', ARGV[1])
return 0`);

/** XGROUP DELCONSUMER destroys what the consumer has pending (known-traps B11). KEYS: stream. ARGV: group, consumer. */
export const REMOVE_CONSUMER = script(`
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if pending.err then return 1 end
if #pending > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1`);

/**
 * Replay to one group (rulings 60). FORCE makes the entry pending again although it was acknowledged, for a consumer that doesn't exist, idle
 * for long: the engines claim it. Anything that stands against it (trimmed, no such group, another type of key) makes a copy.
 * KEYS: dead-letter stream, stream, replay stream, control stream. ARGV: dead letter's id, group, original id, name, value, …
 */
export const REPLAY = script(`
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1], 'COUNT', 1) == 0 then return 'missing' end
local outcome = 'copied'
local original = redis.pcall('XRANGE', KEYS[2], ARGV[3], ARGV[3], 'COUNT', 1)
if original.err == nil and #original == 1 then
  local claimed = redis.pcall('XCLAIM', KEYS[2], ARGV[2], '${REPLAY_CONSUMER}', 0, original[1][1],
    'IDLE', ${CLAIMABLE_ms}, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
  if claimed.err == nil and #claimed == 1 then outcome = 'redelivered' end
end
if outcome == 'copied' then redis.call('XADD', KEYS[3], '*', unpack(ARGV, 4)) end
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ${CONTROL_LENGTH}, '*', 'event', 'replay', 'stream', KEYS[2], 'group', ARGV[2])
return outcome`);

/**
 * Takes a group back. What is pending already stays with its consumer; what was acknowledged since becomes pending for a consumer that doesn't exist.
 * KEYS: stream, control stream. ARGV: group, last delivered id, ids. Answers how many became pending, -1 without the group.
 */
export const REWIND = script(`
if redis.pcall('XPENDING', KEYS[1], ARGV[1]).err then return -1 end
redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
local made = 0
for at = 3, #ARGV do
  local id = ARGV[at]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) == 0 and #redis.call('XRANGE', KEYS[1], id, id, 'COUNT', 1) == 1 then
    made = made + #redis.call('XCLAIM', KEYS[1], ARGV[1], '${REPLAY_CONSUMER}', 0, id, 'IDLE', ${CLAIMABLE_ms}, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
  end
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ${CONTROL_LENGTH}, '*', 'event', 'replay', 'stream', KEYS[1], 'group', ARGV[1])
return made`);

/**
 * Removes what every group is done with (subscriptions.md §2.6 "ours"): below the lowest pending id of every group, and not above what it was
 * given last. `XINFO GROUPS` alone would not do: last-delivered is not acknowledged (W3).
 * KEYS: stream. ARGV: age in ms, greatest length or ''. Of a stream that is too long the oldest acknowledged go whatever their age, at most
 * 1,000 in one call, so that no call holds up the server.
 */
export const TRIM_ACKNOWLEDGED = script(`
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err or #groups == 0 then return 0 end
local function parts(id)
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(sequence)
end
local floor, floor_ms, floor_sequence
local function lower(id)
  local ms, sequence = parts(id)
  if floor == nil or ms < floor_ms or (ms == floor_ms and sequence < floor_sequence) then
    floor, floor_ms, floor_sequence = id, ms, sequence
  end
end
for _, group in ipairs(groups) do
  local info = {}
  for at = 1, #group, 2 do info[group[at]] = group[at + 1] end
  local summary = redis.call('XPENDING', KEYS[1], info['name'])
  if summary[1] > 0 then
    lower(summary[2])
  else
    local ms, sequence = string.match(info['last-delivered-id'], '^(%d+)-(%d+)$')
    local behind = tonumber(sequence) < 9007199254740991 and string.format('%.0f', tonumber(sequence) + 1) or sequence
    lower(ms .. '-' .. behind)
  end
end
local removed = 0
local age = tonumber(ARGV[1])
local now = redis.call('TIME')
local cut_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) - age + 1
if cut_ms > floor_ms then
  removed = redis.call('XTRIM', KEYS[1], 'MINID', '=', floor)
elseif cut_ms > 0 then
  removed = redis.call('XTRIM', KEYS[1], 'MINID', '=', string.format('%.0f-0', cut_ms))
end
if ARGV[2] ~= '' then
  local excess = math.min(redis.call('XLEN', KEYS[1]) - tonumber(ARGV[2]), 1000)
  if excess > 0 then
    for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', excess)) do
      local ms, sequence = parts(entry[1])
      if ms > floor_ms or (ms == floor_ms and sequence >= floor_sequence) then break end
      removed = removed + redis.call('XDEL', KEYS[1], entry[1])
    end
  end
end
return removed`);

/** KEYS: stream. ARGV: age in ms, by the server's clock. */
export const TRIM_OLD = script(`
local now = redis.call('TIME')
local cut_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) - tonumber(ARGV[1]) + 1
if cut_ms <= 0 then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', string.format('%.0f-0', cut_ms))`);

/** The newest id that each stream ever had, without its payload; 0-0 where there is no stream. KEYS: streams. */
export const NEWEST_IDS = script(`
local newest = {}
for at, stream in ipairs(KEYS) do
  newest[at] = '0-0'
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info.err == nil then
    for field = 1, #info, 2 do
      if info[field] == 'last-generated-id' then newest[at] = info[field + 1] end
    end
  end
end
return newest`);

/** `now` in milliseconds, by the server's clock. */
const NOW = `
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)`;

/**
 * A lease is the string `owner:generation` with an expiry. The counter of generations begins at the server's time, so that a server that lost
 * its data gives out no generation a second time.
 * KEYS: lease, its generation counter, index of leases. ARGV: owner, ttl in ms, name. Answers the generation or nil.
 */
export const ACQUIRE = script(`${NOW}
local held = redis.call('GET', KEYS[1])
local generation
if held then
  local owner, known = string.match(held, '^(.*):(%d+)$')
  if owner ~= ARGV[1] then return false end
  generation = known
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[2], string.format('%.0f', now_ms), 'NX')
  redis.call('INCR', KEYS[2])
  generation = redis.call('GET', KEYS[2])
  redis.call('SET', KEYS[1], ARGV[1] .. ':' .. generation, 'PX', ARGV[2])
end
redis.call('ZADD', KEYS[3], now_ms + tonumber(ARGV[2]), ARGV[3])
return generation`);

/** KEYS: index, leases. ARGV: ttl in ms, then value and name of each. Answers 1 for each that is still held. */
export const RENEW = script(`${NOW}
local kept = {}
for at = 2, #KEYS do
  kept[at - 1] = 0
  if redis.call('GET', KEYS[at]) == ARGV[at * 2 - 2] then
    redis.call('PEXPIRE', KEYS[at], ARGV[1])
    redis.call('ZADD', KEYS[1], now_ms + tonumber(ARGV[1]), ARGV[at * 2 - 1])
    kept[at - 1] = 1
  end
end
return kept`);

/** KEYS: index, leases. ARGV: value and name of each. */
export const RELEASE = script(`
for at = 2, #KEYS do
  if redis.call('GET', KEYS[at]) == ARGV[at * 2 - 3] then
    redis.call('DEL', KEYS[at])
    redis.call('ZREM', KEYS[1], ARGV[at * 2 - 2])
  end
end
return 0`);

/** KEYS: index. ARGV: nothing. Answers the names whose time has not run out; forgets the others. */
export const LIVING = script(`${NOW}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)
return redis.call('ZRANGEBYSCORE', KEYS[1], now_ms, '+inf')`);

/** KEYS: record, index, version. ARGV: text, ttl in ms, id, our version, its text. Answers what is there when that is a newer version's. */
export const BEAT = script(`${NOW}
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[2]), ARGV[3])
local known = redis.call('GET', KEYS[3])
local version = known and tonumber(string.match(known, '"version": ?(%d+)')) or 0
if version > tonumber(ARGV[4]) then return known end
if version < tonumber(ARGV[4]) then redis.call('SET', KEYS[3], ARGV[5]) end
return 0`);

/** KEYS: idempotency key. ARGV: reservation, ttl in ms, unreadable text that may be replaced or ''. Answers nil when it is ours, else what is there. */
export const RESERVE = script(`
local known = redis.call('GET', KEYS[1])
if known and (ARGV[3] == '' or known ~= ARGV[3]) then return known end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false`);

/** KEYS: idempotency key. ARGV: our reservation. */
export const UNRESERVE = script(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`);
