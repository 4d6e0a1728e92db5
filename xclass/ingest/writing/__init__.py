"""Numbered pairs, sequences and features → the files of a dataset directory."""
