"""One file for each command: it reads its options, calls the library and prints."""
