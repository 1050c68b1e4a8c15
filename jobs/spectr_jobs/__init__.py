"""Jobs: files of prompts in, files of completions out. Records, shards, progress and reports; no tensors."""
