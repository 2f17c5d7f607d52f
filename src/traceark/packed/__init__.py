"""The packed form: directories of traces in one ``.zip`` or ``.tar.zst``, byte for byte, written and read back.

A pack may come from a stranger. What reads it here believes nothing that it says of itself: sizes are
counted while bytes come out, and no name in it ever becomes a path.
"""

from traceark.packed.members import Limits
from traceark.packed.spool import Spool, spooled
from traceark.packed.writing import PackWriter, writing
from traceark.packed.zips import ZipWriter

__all__ = ["Limits", "PackWriter", "Spool", "ZipWriter", "spooled", "writing"]
