"""From tokens to one vector, under its public name: see model/pooling.py."""

from fastbert.model.pooling import *  # noqa: F403
