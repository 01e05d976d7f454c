-- What a request that was made before with its idempotency key came to; nothing if it was not.
-- ARGV: 2 '{owner}:{idempotency key}', 3 digest of the request
return repeated(ARGV[2], ARGV[3]) or { 'new' }
