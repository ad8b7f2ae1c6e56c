-- name: backend
-- Not what the server said when it let us in: a pooler says something of its own then.
SELECT pg_backend_pid()
