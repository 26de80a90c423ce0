"""Jobs over many files: from a corpus on disk to a folder of parts, in bounded memory, and resumable.

    inputs -> scan: every row once, into a plan -> parts, each: rows -> prepared -> model -> a file, whole or not there

jobs.py       what is computed: settings and work       embedding.py   vectors
inputs.py     names and patterns to files               rows.py        the rows of a file, from any place on
plan.py       which rows make which part                columns.py     types of columns that are taken over
manifest.py   what a folder is made of                  reading.py, writing.py, pipeline.py    a part
workers.py    several processes                         running.py     the whole job
"""

from fastbert.bulk.embedding import Embed
from fastbert.bulk.jobs import Job
from fastbert.bulk.rows import Columns
from fastbert.bulk.running import Summary, run_job

__all__ = ["Columns", "Embed", "Job", "Summary", "run_job"]
