"""Advantage estimators: from a group of reward vectors to one learning signal."""
