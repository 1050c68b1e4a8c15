"""Writing what a queue needs to decode a run's shards on many machines."""
