#!lua flags=allow-oom
-- Discard ended jobs whose time is over.
look()
local ids = redis.call('ZRANGE', PREFIX .. 'expiry', '-inf', int(steady()), 'BYSCORE', 'LIMIT', 0, 100)
for _, id in ipairs(ids) do
  discard(id)
end
return #ids
