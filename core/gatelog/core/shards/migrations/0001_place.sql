-- What this database is to the store when the index lives outside the gate's database. One row, written once, by
-- `gatelog init`: programs compare it with their settings, so that no shard is ever taken for another.
CREATE TABLE @store.index_place (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    store_key uuid NOT NULL,   -- drawn by the gate's database: a store that is made anew under the same name has another
    shard integer,             -- null: this is the gate's database
    shards integer NOT NULL CHECK (shards > 0)
);
