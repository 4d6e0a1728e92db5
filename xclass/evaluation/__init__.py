"""Lists measured against the truth: those of a run, and those of any system in files."""
