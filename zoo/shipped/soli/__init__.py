"""Training SoliReward models on MovingShapes: data, training, ablations and their page."""
