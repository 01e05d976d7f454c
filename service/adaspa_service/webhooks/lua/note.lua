#!lua flags=allow-oom
-- What came of an attempt: the delivery is done, waits for its next attempt, or is dead.
-- An attempt has a say until its time is over: from then on another may have begun, also one of an operator's redelivery,
-- which counts from 1 again. That its receiver has the event counts however late it is told.
-- id, type, over_ms (the attempt's time is over), lane, owner, outcome, error (what was wrong), body? (that was made),
-- again_in_ms? (next attempt), dead_ms (a dead one is kept for)
local id, lane, outcome = A.id, A.lane, A.outcome
local key, trying = PREFIX .. 'webhook:' .. id, PREFIX .. 'webhook_trying:' .. A.owner
local counts = PREFIX .. 'webhook_counts'
keep_only('zset', PREFIX .. 'webhook_lane:' .. lane)
count(counts, 'attempts|' .. outcome, 1)

local under_way = A.over_ms > now() and tonumber(redis.call('ZSCORE', trying, id)) == A.over_ms
local event = redis.call('HGET', key, 'type')
if event == A.type and outcome == 'delivered' then
  count(counts, 'ended|delivered', 1)
  forget_webhook(id)
elseif event and under_way then
  redis.call('HSET', key, 'error', A.error, 'tried_at', seconds(now()))
  if A.body then
    redis.call('HSET', key, 'body', A.body)
    redis.call('HDEL', key, 'record')
  end
  if A.again_in_ms then
    schedule_webhook(id, lane, now() + A.again_in_ms)
  else
    count(counts, 'ended|dead', 1)
    redis.call('ZREM', PREFIX .. 'webhook_lane:' .. lane, id)
    redis.call('ZREM', PREFIX .. 'webhooks', id)
    redis.call('ZADD', PREFIX .. 'webhooks_dead', int(now()), id)
    redis.call('PEXPIRE', key, int(A.dead_ms))
  end
end

if under_way then
  redis.call('ZREM', trying, id)
  -- The lane goes behind those that are due, so that none comes twice before another once.
  redis.call('DEL', PREFIX .. 'webhook_busy:' .. lane)
  local first = redis.call('ZRANGE', PREFIX .. 'webhook_lane:' .. lane, 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', PREFIX .. 'webhook_lanes', int(math.max(now(), tonumber(first[2]))), lane)
  else
    redis.call('ZREM', PREFIX .. 'webhook_lanes', lane)
  end
end
return 'ok'
