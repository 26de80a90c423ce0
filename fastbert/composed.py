"""An encoder with another head, under its public name: see model/composed.py."""

from fastbert.model.composed import *  # noqa: F403
