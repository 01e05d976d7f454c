#!lua flags=allow-oom
-- Discard ended jobs whose time is over.
look()
local ids = redis.call('ZRANGE', PREFIX .. 'expiry', '-inf', int(steady()), 'BYSCORE', 'LIMIT', 0, 100)
for _, id in ipairs(ids) do
  if get(id, 'owner') then  -- all that it takes
    discard(id)
  else
    set_aside(id)
  end
end
return #ids
