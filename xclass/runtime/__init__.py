"""What the process has: random streams, threads, memory, progress, the compiler of loops."""
