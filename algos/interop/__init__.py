"""Estimators and flow policies inside other people's learners; each library when asked for.

The adapters of the environment are a floor below, in :mod:`reelrl.envs.interop`; what needs an
estimator or a policy lives here, because imports only go down.
"""
