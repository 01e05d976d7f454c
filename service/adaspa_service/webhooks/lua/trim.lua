#!lua flags=allow-oom
-- Forget dead deliveries whose time is over, and what is beyond the number that is kept: the oldest dead ones first,
-- then those whose next attempt is farthest off, which have failed most often.
-- dead_ms (a dead one is kept for), kept (deliveries)
local waiting, dead = PREFIX .. 'webhooks', PREFIX .. 'webhooks_dead'
for _, id in ipairs(redis.call('ZRANGE', dead, '-inf', int(now() - A.dead_ms), 'BYSCORE', 'LIMIT', 0, 100)) do
  forget_webhook(id)
end
local excess = redis.call('ZCARD', waiting) + redis.call('ZCARD', dead) - A.kept
local dropped = {}
for _ = 1, math.min(excess, 100) do
  local id = redis.call('ZRANGE', dead, 0, 0)[1] or redis.call('ZRANGE', waiting, -1, -1)[1]
  if redis.call('ZSCORE', waiting, id) then
    count(PREFIX .. 'webhook_counts', 'ended|dropped', 1)
    dropped[#dropped + 1] = id
  end
  forget_webhook(id)
end
return dropped
