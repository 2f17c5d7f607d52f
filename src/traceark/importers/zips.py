"""What Python's library raises where a zip is damaged, or of a kind that it does not know."""

from __future__ import annotations

import struct
import zipfile
import zlib

BAD_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)
