"""The figures of some scripts, a module for each, and the style that all share."""
