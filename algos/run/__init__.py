"""Around a training run: checkpoints, the log, processes that train together, the console."""
