-- Whether an attempt may go on.
-- id, token
return refusal(A.id, A.token) or 'ok'
