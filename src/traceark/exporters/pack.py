"""A packed trace: one ``.zip`` with the trace's directory inside, byte for byte.

Unpacked below ``traces/`` of any archive it is a trace of that archive. The zip says nothing that
the directory does not: times in it are fixed, so that the same files give the same bytes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping

# The first moment that a zip can tell.
_MOMENT = (1980, 1, 1, 0, 0, 0)
_UNIX, _PLAIN_FILE = 3, 0o100644 << 16


class Pack:
    """Writes a zip.

    Examples
    --------
    >>> data = b"".join(Pack().pack("run-7", {"trace.json": b"{}"}))
    >>> zipfile.ZipFile(io.BytesIO(data)).namelist()
    ['run-7/trace.json']
    """

    name = "pack"
    suffix = ".zip"
    joins = False

    def pack(self, directory: str, files: Mapping[str, bytes]) -> Iterator[bytes]:
        """Yield the bytes of the zip, its members by name."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name in sorted(files):
                info = zipfile.ZipInfo(f"{directory}/{name}", _MOMENT)
                info.create_system, info.external_attr = _UNIX, _PLAIN_FILE
                # Parts are compressed already.
                packed = name.endswith(".parquet")
                info.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
                file.writestr(info, files[name], compresslevel=6)
        yield out.getvalue()
