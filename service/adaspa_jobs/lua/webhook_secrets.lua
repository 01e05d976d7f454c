-- The signing secrets that hold, the current one first; makes one where there is none.
-- ARGV: 2 a fresh secret, 3 '1' to make it the current one in any case, 4 the others then hold for (ms)
local key = PREFIX .. 'webhook_secrets'
if ARGV[3] == '1' then
  for _, secret in ipairs(redis.call('ZRANGE', key, 'inf', 'inf', 'BYSCORE')) do
    redis.call('ZADD', key, int(NOW + ARGV[4]), secret)
  end
end
redis.call('ZREMRANGEBYSCORE', key, '-inf', int(NOW))
if ARGV[3] == '1' or redis.call('ZCARD', key) == 0 then
  redis.call('ZADD', key, 'inf', ARGV[2])
end
return redis.call('ZRANGE', key, 0, -1, 'REV')
