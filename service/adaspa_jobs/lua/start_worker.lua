#!lua flags=allow-oom
-- A worker starts: if an earlier process of it has a job, that one has died, and the job need not wait for its lease.
-- worker, given_up (error of a job that is given up, JSON)
local held = held_by(A.worker)
return held and lose_worker(held, A.given_up) and held or false
