"""The estimators, one method of the literature per file; each file is found by itself."""
