"""The reference of every op, under its public name: see ops/reference.py."""

from fastbert.ops.reference import *  # noqa: F403
