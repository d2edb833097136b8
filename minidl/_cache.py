"""The folder for what can be made or fetched again: downloaded data sets, compiled kernels."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for downloads and compiled kernels: `minidl` in the system's place for caches.

    That is $XDG_CACHE_HOME (if absolute) or ~/.cache, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows.
    RuntimeError if none of these is known.
    """
    given = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", "")
    if os.path.isabs(given) and sys.platform != "darwin":
        return Path(given, "minidl")
    home = os.path.expanduser("~")  # asks the user database where HOME is unset
    if os.name != "nt" and os.environ.get("HOME") == "":
        home = ""  # expanduser makes it the root of the file system
    if not os.path.isabs(home):
        raise RuntimeError("cache_folder: the home folder is unknown; set HOME, or MINIDL_DATA to where the data lies")
    if os.name == "nt":
        return Path(home, "AppData", "Local", "minidl")
    return Path(home, "Library", "Caches", "minidl") if sys.platform == "darwin" else Path(home, ".cache", "minidl")
