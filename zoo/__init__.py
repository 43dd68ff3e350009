"""Presets, training of the shipped models, reports and the command line."""
