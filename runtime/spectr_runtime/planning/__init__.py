"""Which plan the next round takes, from what rounds cost on this machine."""
