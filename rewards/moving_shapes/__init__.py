"""MovingShapes: a world whose video quality is known, its gold score and its hackable proxies."""
