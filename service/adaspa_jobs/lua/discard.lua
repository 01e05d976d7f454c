#!lua flags=allow-oom
-- Delete a job for its owner: hidden at once, removed when no worker holds it. Its event is no longer sent.
-- id
local id = A.id
if not get(id, 'status') or get(id, 'discarded') == '1' then
  return 0
end
discard(id)
forget_webhook(id)
return 1
