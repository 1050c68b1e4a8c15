"""Backends of the engine protocol, one file each; import the one that is wanted."""
