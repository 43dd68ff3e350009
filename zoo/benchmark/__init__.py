"""The head-to-head benchmark: scenarios, methods and seeds, run in parallel and taken up again."""
