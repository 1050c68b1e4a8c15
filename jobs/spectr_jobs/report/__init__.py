"""What a run looks like afterwards: its summary, its timeline, its page."""
