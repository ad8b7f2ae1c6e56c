-- Which store this is, or to which one the checkpoints in this database belong. Two stores may have one name, in two
-- databases; what they have in Kafka is told apart by this id. One row, written once: copies and standbys keep it.
CREATE TABLE @store.identity (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL
);
