-- Begin a dead delivery's attempts anew, or make a waiting one's next attempt now; not of one whose record is damaged.
-- id
local id = A.id
local key = PREFIX .. 'webhook:' .. id
local whole = redis.call('TYPE', key).ok == 'hash'
local fields = whole and redis.call('HMGET', key, 'owner', 'type', 'url', 'lane') or {}
local lane = fields[1] and fields[2] and fields[3] and fields[4]
if not lane then
  return 0
end
if redis.call('ZREM', PREFIX .. 'webhooks_dead', id) == 1 then
  redis.call('HSET', key, 'attempts', '0')
  redis.call('PERSIST', key)
end
schedule_webhook(id, lane, now())
return 1
