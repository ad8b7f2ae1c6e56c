-- Fragments of the statement that answers a query: see statement.py. Sessions that use it make a plan for every execution
-- (session), because the best one depends on the values.

-- name: session
SET plan_cache_mode = force_custom_plan;
SET jit = off

-- name: branch
-- What one index gives in the order of positions.
SELECT i.stream, i.version, i.position, i.event_id, i.type, i.recorded_at, i.correlation_id, i.causation_id,
    i.traceparent, i.metadata, i.schema_id, i.data
FROM @store.indexed_events i
WHERE @conditions
ORDER BY i.position @order LIMIT @limit

-- name: merged
-- Branches of one type, or one category, each, merged. One scan with "= ANY" would read all of them before it sorts.
SELECT * FROM (
@branches
) i ORDER BY i.position @order LIMIT @limit

-- name: positions
i.position BETWEEN @lowest AND @highest

-- name: story
-- All events of a correlation id. The event that began a story may carry none: the others have its own id then.
i.position IN (
        SELECT c.position FROM @store.indexed_events c WHERE c.correlation_id = @id
        UNION ALL SELECT c.position FROM @store.indexed_events c WHERE c.event_id = @id
    )

-- name: first_in_time
-- Start where the time range does. Without it the planner, which takes the range for evenly spread, may walk there from
-- the beginning of the log. Is it among the next positions? Else the index on time knows; "+ 0" keeps it from walking.
i.position >= coalesce(
        (SELECT min(e.position) FROM (
            SELECT n.position, n.recorded_at FROM @store.indexed_events n
            WHERE n.position >= @lowest ORDER BY n.position LIMIT 1000
        ) e WHERE @times),
        (SELECT min(e.position + 0) FROM @store.indexed_events e WHERE @times)
    )

-- name: last_in_time
-- The same, backward.
i.position <= coalesce(
        (SELECT max(e.position) FROM (
            SELECT n.position, n.recorded_at FROM @store.indexed_events n
            WHERE n.position <= @highest ORDER BY n.position DESC LIMIT 1000
        ) e WHERE @times),
        (SELECT max(e.position + 0) FROM @store.indexed_events e WHERE @times)
    )

-- name: number
@store.payload_number(i.data_json, @path)

-- name: text
@store.payload_text(i.data_json, @path) COLLATE "C"

-- name: whole_text
(i.data_json #>> @path) COLLATE "C"
