"""A packed trace: one ``.zip`` with the trace's directory inside, byte for byte, as `traceark pack` writes it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping

from traceark.packed.members import in_order, member_name
from traceark.packed.zips import ZipWriter


class Pack:
    """Writes a zip.

    Examples
    --------
    >>> import zipfile
    >>> data = b"".join(Pack().pack("run-7", {"trace.json": b"{}"}))
    >>> zipfile.ZipFile(io.BytesIO(data)).namelist()
    ['traces/run-7/trace.json']
    """

    name = "pack"
    suffix = ".zip"
    joins = False

    def pack(self, directory: str, files: Mapping[str, bytes]) -> Iterator[bytes]:
        """Yield the bytes of the zip."""
        out = io.BytesIO()
        writer = ZipWriter(out)
        for name in in_order(list(files)):
            writer.add(member_name(directory, name), files[name])
        writer.close()
        yield out.getvalue()
