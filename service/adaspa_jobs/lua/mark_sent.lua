-- A queued job's message was sent.
-- ARGV: 2 id
local id = ARGV[2]
if get(id, 'status') == 'queued' then
  redis.call('HSET', record(id), 'sent_at', int(NOW))
end
return redis.call('ZREM', PREFIX .. 'outbox', id)
