"""Text files: lines, delimited rows, dates and times, and the first line that is wrong."""
