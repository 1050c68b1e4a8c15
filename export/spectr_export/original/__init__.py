"""The checkpoint that a model comes from: fetched, checked, loaded where it stands."""
