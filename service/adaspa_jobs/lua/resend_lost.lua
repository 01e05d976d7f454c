-- Messages that were sent but are gone: with fewer messages in the queue than jobs waiting, some jobs lack one. It does
-- not matter which, because a message stands for no particular job; it is sent for those that have waited longest.
-- A message too many does no harm: a worker that finds no job to claim leaves it at that.
-- ARGV: 2 queue, 3 the broker's list, 4 a message is given this long (ms) to be claimed
local arrivals = PREFIX .. 'arrivals:' .. ARGV[2]
local missing = redis.call('ZCARD', PREFIX .. 'waiting:' .. ARGV[2]) - redis.call('LLEN', ARGV[3])
if missing <= 0 then
  return 0
end
local found = 0
for _, id in ipairs(redis.call('ZRANGE', arrivals, 0, math.min(missing, 100) - 1)) do
  local sent = tonumber(get(id, 'sent_at') or NOW)
  if NOW - sent > tonumber(ARGV[4]) then
    redis.call('HSET', record(id), 'sent_at', int(NOW))
    redis.call('ZADD', PREFIX .. 'outbox', int(NOW), id)
    found = found + 1
  end
end
return found
