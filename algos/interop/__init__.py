"""Estimators and flow policies inside other people's learners; each library when asked for.

The adapters of the environment are in :mod:`reelrl.envs.interop`. Adapters that need an estimator
or a policy live here, because imports only go down.
"""
