-- Deleted records are dropped after some days; they are few, and found without a look at the others.
CREATE INDEX state_deleted ON state (updated_at) WHERE deleted;

-- Which of the namespace's databases this is: shard p belongs to number p mod databases.
CREATE TABLE place (
    number    integer NOT NULL,
    databases integer NOT NULL
);
