-- A new secret for a key; the one before holds on for a while. 0 if there is no such key.
-- id, digest (of the new secret), grace (s, how long the old one holds)
local key = PREFIX .. 'key:' .. A.id
local digest = redis.call('HGET', key, 'digest')
if not digest then
  return 0
end
redis.call('HSET', key, 'digest', A.digest, 'previous_digest', digest,
  'previous_until', int(NOW + A.grace * 1000))
return 1
