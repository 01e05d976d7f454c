-- Begin a dead delivery's attempts anew, or make a waiting one's next attempt now.
-- id
local id = A.id
local key = PREFIX .. 'webhook:' .. id
local lane = redis.call('HGET', key, 'lane')
if not lane then
  return 0
end
if redis.call('ZREM', PREFIX .. 'webhooks_dead', id) == 1 then
  redis.call('HSET', key, 'attempts', '0')
  redis.call('PERSIST', key)
end
schedule_webhook(id, lane, now())
return 1
