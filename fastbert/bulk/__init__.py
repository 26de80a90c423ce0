"""Jobs over many files: from a corpus on disk to a folder of parts, in bounded memory, and resumable.

    inputs -> scan: every row once, into a plan -> parts, each: rows -> prepared -> model -> a file, whole or not there

jobs.py       what is computed: settings and work       embedding.py, predicting.py, ranking.py, features.py
inputs.py     names and patterns to files               rows.py        the rows of a file, from any place on
plan.py       which rows make which part                columns.py     types of columns that are taken over
manifest.py   what a folder is made of                  reading.py, writing.py, pipeline.py    a part
workers.py    several processes                         running.py     the whole job
"""

from fastbert.bulk.embedding import Embed
from fastbert.bulk.features import Features
from fastbert.bulk.jobs import Job
from fastbert.bulk.predicting import Predict
from fastbert.bulk.ranking import Rank, best_rows
from fastbert.bulk.rows import Columns
from fastbert.bulk.running import Summary, run_job

__all__ = ["Columns", "Embed", "Features", "Job", "Predict", "Rank", "Summary", "best_rows", "run_job"]
