#!lua flags=allow-oom
-- in_progress -> cancelled, by the attempt that holds the lease and heard of the cancel.
-- ARGV: 2 id, 3 token
local id, token = ARGV[2], ARGV[3]
if already(id, token, 'cancelled') then
  return 'ok'
end
if refusal(id, token) ~= 'cancelled' then
  return 'lost'
end
finish(id, 'cancelled')
return 'ok'
