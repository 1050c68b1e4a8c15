"""One process at work on a run: the models it opens, the rows it decodes and writes, when it stops."""
