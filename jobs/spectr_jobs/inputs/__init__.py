"""From the names on a command line to numbered lines, and from these to records."""
