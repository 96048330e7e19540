"""Samplers by name, each a plain Optuna sampler."""
from __future__ import annotations
from nas.samplers.ehvi import EHVISampler, Problem
