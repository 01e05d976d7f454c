#!lua flags=allow-oom
-- What came of an attempt: the delivery is done, waits for its next attempt, or is dead.
-- ARGV: 2 id, 3 attempt, 4 lane, 5 outcome, 6 what was wrong, 7 body or '' if none was made,
--       8 next attempt in (ms) or '' for none, 9 a dead one is kept for (ms), 10 owner
local id, attempt, lane, outcome = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local key = PREFIX .. 'webhook:' .. id
local counts = PREFIX .. 'webhook_counts'
redis.call('HINCRBY', counts, 'attempts|' .. outcome, 1)

local latest = redis.call('HGET', key, 'attempts')
local overtaken = latest and latest ~= attempt  -- this attempt's time was over, and another has begun
if latest and outcome == 'delivered' then
  redis.call('HINCRBY', counts, 'ended|delivered', 1)
  forget_webhook(id)
elseif latest and not overtaken then
  redis.call('HSET', key, 'error', ARGV[6], 'tried_at', seconds(NOW))
  if ARGV[7] ~= '' then
    redis.call('HSET', key, 'body', ARGV[7])
    redis.call('HDEL', key, 'record')
  end
  if ARGV[8] ~= '' then
    schedule_webhook(id, lane, NOW + ARGV[8])
  else
    redis.call('HINCRBY', counts, 'ended|dead', 1)
    redis.call('ZREM', PREFIX .. 'webhook_lane:' .. lane, id)
    redis.call('ZREM', PREFIX .. 'webhooks', id)
    redis.call('ZADD', PREFIX .. 'webhooks_dead', int(NOW), id)
    redis.call('PEXPIRE', key, ARGV[9])
  end
end

if not overtaken then
  -- The lane goes behind those that are due, so that none comes twice before another once.
  redis.call('DEL', PREFIX .. 'webhook_busy:' .. lane)
  redis.call('ZREM', PREFIX .. 'webhook_trying:' .. ARGV[10], id)
  local first = redis.call('ZRANGE', PREFIX .. 'webhook_lane:' .. lane, 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', PREFIX .. 'webhook_lanes', int(math.max(NOW, tonumber(first[2]))), lane)
  else
    redis.call('ZREM', PREFIX .. 'webhook_lanes', lane)
  end
end
return 'ok'
