-- Snapshots of folded streams. A convenience, never the truth: a row may be wrong, stale or gone, and the table may be
-- emptied at any time. The fingerprint stands for the model of the state, so that programs of different versions keep
-- snapshots of their own side by side.
CREATE TABLE @store.snapshots (
    stream text COLLATE "C" NOT NULL,
    state_type text COLLATE "C" NOT NULL,
    fingerprint text COLLATE "C" NOT NULL,
    version bigint NOT NULL,          -- of the stream, that the state includes
    event_id uuid NOT NULL,           -- of the event with that version: another one there means another history
    recorded_at timestamptz NOT NULL, -- the latest of the events that the state includes
    state text NOT NULL,              -- JSON
    taken_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, state_type, fingerprint)
) WITH (fillfactor = 70);
