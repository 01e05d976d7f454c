-- What a request that was made before with its idempotency key came to; nothing if it was not.
-- idempotency ('{owner}:{key}'), digest (of the request)
return repeated(A.idempotency, A.digest) or { 'new' }
