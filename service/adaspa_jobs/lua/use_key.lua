#!lua flags=allow-oom
-- Count a request of a key: 0, or the ms until its limit allows one. A token bucket kept as one number: the time (ms) at
-- which it is full again. Notes the key's latest use, now and then.
-- ARGV: 2 id, 3 requests a minute or 0, 4 the latest use is noted this often (s)
local id, limit, key = ARGV[2], tonumber(ARGV[3]), PREFIX .. 'key:' .. ARGV[2]
if limit > 0 then
  local rate = PREFIX .. 'rate:' .. id
  local full_at = math.max(tonumber(redis.call('GET', rate) or '0'), NOW) + 60000 / limit
  local wait = full_at - NOW - 60000
  if wait > 1 then  -- less is rounding
    return math.ceil(wait)
  end
  redis.call('SET', rate, string.format('%.3f', full_at), 'PX', int(math.ceil(full_at - NOW)))
end
local used = tonumber(redis.call('HGET', key, 'last_used_at') or '0')
if NOW / 1000 - used >= tonumber(ARGV[4]) and redis.call('EXISTS', key) == 1 then
  redis.call('HSET', key, 'last_used_at', seconds(NOW))
end
return 0
