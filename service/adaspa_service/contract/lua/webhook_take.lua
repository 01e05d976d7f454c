-- Begin an attempt at due deliveries, one in a lane. A lane is busy until the outcome is noted (webhook_note.lua), or
-- until the attempt's time is over because whoever made it died; then another makes the next.
-- ARGV: 2 deliveries at most, 3 time of an attempt (ms)
local over = int(NOW + ARGV[3])
local taken = {}
for _, lane in ipairs(redis.call('ZRANGE', PREFIX .. 'webhook_lanes', '-inf', int(NOW), 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
  local busy = redis.call('PTTL', PREFIX .. 'webhook_busy:' .. lane)
  local first = redis.call('ZRANGE', PREFIX .. 'webhook_lane:' .. lane, 0, 0, 'WITHSCORES')
  local id, due = first[1], tonumber(first[2])
  if not id then
    redis.call('ZREM', PREFIX .. 'webhook_lanes', lane)
  elseif busy > 0 then
    redis.call('ZADD', PREFIX .. 'webhook_lanes', int(NOW + busy), lane)
  elseif due > NOW then
    redis.call('ZADD', PREFIX .. 'webhook_lanes', int(due), lane)
  else
    redis.call('HINCRBY', PREFIX .. 'webhook:' .. id, 'attempts', 1)
    redis.call('SET', PREFIX .. 'webhook_busy:' .. lane, id, 'PX', ARGV[3])
    redis.call('ZADD', PREFIX .. 'webhook_lanes', over, lane)
    redis.call('ZADD', PREFIX .. 'webhook_lane:' .. lane, over, id)
    redis.call('ZADD', PREFIX .. 'webhooks', over, id)
    taken[#taken + 1] = { id, redis.call('HGETALL', PREFIX .. 'webhook:' .. id) }
  end
end
return taken
