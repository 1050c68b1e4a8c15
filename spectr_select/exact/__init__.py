"""What rules do exactly: their output laws by enumeration of every outcome, and how often they accept."""
