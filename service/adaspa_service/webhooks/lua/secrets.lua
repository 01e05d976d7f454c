-- The signing secrets that hold, the current one first; makes one where there is none.
-- fresh (a secret), keep_ms? (make it the current one in any case; the others hold for so long)
local key = PREFIX .. 'webhook_secrets'
if A.keep_ms then
  for _, secret in ipairs(redis.call('ZRANGE', key, 'inf', 'inf', 'BYSCORE')) do
    redis.call('ZADD', key, int(now() + A.keep_ms), secret)
  end
end
redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now()))
if A.keep_ms or redis.call('ZCARD', key) == 0 then
  redis.call('ZADD', key, 'inf', A.fresh)
end
return redis.call('ZRANGE', key, 0, -1, 'REV')
