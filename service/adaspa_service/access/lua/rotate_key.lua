-- A new secret for a key; each one before holds on for the rest of its grace, and for no longer than this one gives.
-- The same secret again changes nothing, so that whoever lost the answer can ask again. 0 if there is no such key.
-- id, digest (of the new secret), grace (s, how long the old one holds)
local key = PREFIX .. 'key:' .. A.id
local digest = redis.call('HGET', key, 'digest')
if not digest then
  return 0
end
if digest == A.digest then
  return 1
end
local ends = now() + A.grace * 1000
local previous = { digest .. ':' .. int(ends) }
for old, its_end in string.gmatch(redis.call('HGET', key, 'previous') or '', '(%x+):(%d+)') do
  if tonumber(its_end) > now() then
    table.insert(previous, old .. ':' .. int(math.min(tonumber(its_end), ends)))
  end
end
redis.call('HSET', key, 'digest', A.digest, 'previous', table.concat(previous, ' '))
return 1
