-- When a deleted user came back: what was used before does not count, whatever row it would count in.
ALTER TABLE tiergate.subject ADD COLUMN since timestamptz;
