"""The rooms of a benchmark report: what is read, measured, compared, drawn and printed."""
