"""The runtime: bundles, engines and the speculative decoder. It knows no files of prompts."""
