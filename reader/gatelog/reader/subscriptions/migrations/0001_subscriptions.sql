-- Subscriptions that have run, and where each began. The first one that runs decides; a partition without a committed
-- offset (new, or expired in Kafka) is read from here, so that nothing is skipped.
CREATE TABLE @store.subscriptions (
    name text COLLATE "C" PRIMARY KEY,
    categories text[],                  -- null: the whole store
    start_position bigint NOT NULL,     -- the first event has a higher position
    start_time timestamptz,             -- or, where it is set: from the first record of this time on
    start_offsets jsonb,                -- taken over from another subscription: {"topic": {"partition": [offset, position]}}
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The members that run now, or died without a word: each writes every few seconds. A row goes when its member leaves.
CREATE TABLE @store.subscription_members (
    subscription text COLLATE "C" NOT NULL,
    member uuid NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    polled_s_ago real NOT NULL DEFAULT 0,       -- its polling thread
    progressed_s_ago real NOT NULL DEFAULT 0,   -- since it handled an event, or had none in hand
    facts jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (subscription, member)
);

-- Where a group of a subscription or transform has handled each partition: what it commits to Kafka, once more, every few
-- seconds. Kafka forgets it when a topic is deleted, and when a group is idle for some days.
CREATE TABLE @store.group_marks (
    consumer_group text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    position bigint,        -- all of the partition is handled up to here; null: not known
    leader_epoch integer,   -- of the newest record that was read then
    topic_id text,          -- of the topic that the offset is of: one that is made again has another
    settled bigint,         -- of the parked topic, the offset from which on it counts what was said to be settled
    waits boolean NOT NULL, -- the group begins at a time, and nothing of that time or later was met yet
    PRIMARY KEY (consumer_group, topic, partition)
);
