#!lua flags=allow-oom
-- Delete a job for its owner: hidden at once, removed when no worker holds it. Its event is no longer sent. One whose
-- record is damaged goes, too; without an owner nobody may ask for it.
-- id
local id = A.id
if not get(id, 'owner') or get(id, 'discarded') == '1' then
  return 0
end
set_aside_if_damaged(id)
discard(id)
forget_webhook(id)
return 1
