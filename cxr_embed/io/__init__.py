"""Reading and writing safely: write-then-rename, digests, time, child processes."""
