#!lua flags=allow-oom
-- Count a request of a key: 0, or the ms until its limit allows one; how many more it allows now, and the ms until it
-- allows a minute's at once. A token bucket kept as one number: the time (ms) at which it is full again. Notes the key's
-- latest use, now and then.
-- id, limit? (requests a minute), noted_seconds (the latest use is noted this often)
local id, limit, key = A.id, A.limit, PREFIX .. 'key:' .. A.id
local left, reset = 0, 0
if limit then
  local rate = PREFIX .. 'rate:' .. id
  local full_at = tonumber(redis.call('GET', rate) or '0')
  if full_at < now() or full_at > now() + 120000 then  -- so far off only if the clock was set back
    full_at = now()
  end
  full_at = full_at + 60000 / limit
  local wait = full_at - now() - 60000
  if wait > 1 then  -- less is rounding
    return { math.ceil(wait), 0, math.ceil(full_at - 60000 / limit - now()) }
  end
  redis.call('SET', rate, string.format('%.3f', full_at), 'PX', int(math.max(1, math.ceil(full_at - now()))))
  reset = math.ceil(full_at - now())
  left = math.floor((60001 - (full_at - now())) * limit / 60000)
end
local used = tonumber(redis.call('HGET', key, 'last_used_at') or '0')
if now() / 1000 - used >= A.noted_seconds and redis.call('EXISTS', key) == 1 then
  redis.call('HSET', key, 'last_used_at', seconds(now()))
end
return { 0, left, reset }
