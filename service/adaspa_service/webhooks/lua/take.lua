#!lua flags=allow-oom
-- Begin an attempt at due deliveries, one in a lane. A lane is busy until the outcome is noted (note.lua), or
-- until the attempt's time is over because whoever made it died; then another makes the next.
-- An owner gets so many attempts at a time: receivers of one that all hang hold up no other's.
-- One without its whole record, such as a restored backup may hold, or with a damaged one is given up instead. A lane of
-- another type than ours is empty: its deliveries wait until they are asked for (redeliver.lua).
-- When (ms) the attempts' time is over; the deliveries; the ids of those that were given up; and the lanes of another type.
-- limit (deliveries at most), attempt_ms (time of an attempt), owner_attempts (of one owner at most), dead_ms (a dead
-- one is kept for)
local LOOKED_AT, PUT_OFF = 1000, 500
local DAMAGED = 'its record in Redis was gone or damaged'
local over = int(now() + A.attempt_ms)
local taken, damaged, emptied = {}, {}, {}

local function may_try(owner)
  local trying = PREFIX .. 'webhook_trying:' .. owner
  keep_only('zset', trying)
  redis.call('ZREMRANGEBYSCORE', trying, '-inf', int(now()))
  return redis.call('ZCARD', trying) < A.owner_attempts
end

local lanes = redis.call('ZRANGE', PREFIX .. 'webhook_lanes', '-inf', int(now()), 'BYSCORE', 'LIMIT', 0, LOOKED_AT)
for _, lane in ipairs(lanes) do
  if #taken == A.limit then
    break
  end
  if keep_only('zset', PREFIX .. 'webhook_lane:' .. lane) then
    emptied[#emptied + 1] = lane
  end
  local busy = redis.call('PTTL', PREFIX .. 'webhook_busy:' .. lane)
  local first = redis.call('ZRANGE', PREFIX .. 'webhook_lane:' .. lane, 0, 0, 'WITHSCORES')
  local id, due = first[1], tonumber(first[2])
  if id then
    keep_only('hash', PREFIX .. 'webhook:' .. id)
  end
  local fields = id and redis.call('HMGET', PREFIX .. 'webhook:' .. id, 'owner', 'attempts', 'type', 'url', 'lane') or {}
  local counted = string.match(fields[2] or '', '^%d%d?%d?%d?$')  -- what Redis can add to, and Python can read
  local owner = counted and fields[3] and fields[4] and fields[5] and fields[1]
  if not id then
    redis.call('ZREM', PREFIX .. 'webhook_lanes', lane)
  elseif not owner then
    redis.call('ZREM', PREFIX .. 'webhook_lane:' .. lane, id)
    if redis.call('ZREM', PREFIX .. 'webhooks', id) == 1 then  -- else it was deleted, and its record did not say its lane
      count(PREFIX .. 'webhook_counts', 'ended|damaged', 1)
      redis.call('ZADD', PREFIX .. 'webhooks_dead', int(now()), id)
      redis.call('HSET', PREFIX .. 'webhook:' .. id, 'error', DAMAGED)
      redis.call('PEXPIRE', PREFIX .. 'webhook:' .. id, int(A.dead_ms))
      damaged[#damaged + 1] = id
    end
  elseif busy > 0 then
    redis.call('ZADD', PREFIX .. 'webhook_lanes', int(now() + busy), lane)
  elseif due > now() then
    redis.call('ZADD', PREFIX .. 'webhook_lanes', int(due), lane)
  elseif not may_try(owner) then
    redis.call('ZADD', PREFIX .. 'webhook_lanes', int(now() + PUT_OFF), lane)
  else
    redis.call('ZADD', PREFIX .. 'webhook_trying:' .. owner, over, id)
    redis.call('HINCRBY', PREFIX .. 'webhook:' .. id, 'attempts', 1)
    redis.call('SET', PREFIX .. 'webhook_busy:' .. lane, id, 'PX', int(A.attempt_ms))
    redis.call('ZADD', PREFIX .. 'webhook_lanes', over, lane)
    redis.call('ZADD', PREFIX .. 'webhook_lane:' .. lane, over, id)
    redis.call('ZADD', PREFIX .. 'webhooks', over, id)
    taken[#taken + 1] = { id, redis.call('HGETALL', PREFIX .. 'webhook:' .. id) }
  end
end
return { over, taken, damaged, emptied }
