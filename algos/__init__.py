"""Policies, advantage estimators and learners."""
