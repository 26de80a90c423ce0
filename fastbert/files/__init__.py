"""Finding and writing the files of a model: a local directory or a hub id, JSON with clear errors, atomic replacement.

finding.py   where they are, and what identifies them     reading.py    JSON
writing.py   whole or not at all                          claiming.py   folders that one process at a time works in
rows.py      results, as a file's ending says             pushing.py    to the hub      room.py    of the disk
"""

from fastbert.files.claiming import claimed, holds_nothing
from fastbert.files.finding import HUB_OPTIONS, fingerprint, locate, matches_of, sha256, split_hub_options
from fastbert.files.reading import MAX_JSON_BYTES, read_json, read_json_if_present, read_json_list
from fastbert.files.room import check_room
from fastbert.files.writing import (
    clear_leftovers,
    flush,
    new_folder,
    remove_folder,
    replacing,
    replacing_folder,
    scratch_folder,
    updating_folder,
    write_text,
)

__all__ = [
    "HUB_OPTIONS",
    "MAX_JSON_BYTES",
    "check_room",
    "claimed",
    "clear_leftovers",
    "fingerprint",
    "flush",
    "holds_nothing",
    "locate",
    "matches_of",
    "new_folder",
    "read_json",
    "read_json_if_present",
    "read_json_list",
    "remove_folder",
    "replacing",
    "replacing_folder",
    "scratch_folder",
    "sha256",
    "split_hub_options",
    "updating_folder",
    "write_text",
]
