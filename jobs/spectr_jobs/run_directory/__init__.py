"""All that is on disk of a run, and what makes it durable."""
