-- A new secret for a key; the one before holds on for a while. 0 if there is no such key.
-- ARGV: 2 id, 3 digest of the new secret, 4 how long the old one holds (s)
local key = PREFIX .. 'key:' .. ARGV[2]
local digest = redis.call('HGET', key, 'digest')
if not digest then
  return 0
end
redis.call('HSET', key, 'digest', ARGV[3], 'previous_digest', digest,
  'previous_until', int(NOW + tonumber(ARGV[4]) * 1000))
return 1
