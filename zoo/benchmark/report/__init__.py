"""The report of a benchmark: it reads, measures, compares, draws and prints results."""
