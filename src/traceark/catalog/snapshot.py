"""The snapshot: one row per trace in one Parquet file, bound to one archive in one place.

Bytes in, Arrow out and back; knows no storage. What it says of itself stands in its key-value
metadata, as in a part.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from traceark.catalog.rows import COLUMNS
from traceark.codec.malformed import MALFORMED, stated
from traceark.codec.parquet import METADATA_KEY, arrow_schema
from traceark.errors import CorruptFileError
from traceark.layout import FORMAT_VERSION

SCHEMA = arrow_schema(COLUMNS)
_NAME = re.compile(r"snapshot-(\d{12})-([0-9a-f]{8})\.parquet")
# Small enough to prune by, large enough to compress.
ROW_GROUP_ROWS = 122_880
_ZSTD_LEVEL = 3
_PIECE_BYTES = 1 << 20
_UNKNOWN = "0" * 8
_FOOTER_CRC = b'"footer":"'
_MOST_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What a snapshot says of itself.

    Attributes
    ----------
    binding : str
        The archive and the place it is bound to.
    generation : int
        Each snapshot's is one more than that of the one it was made from.
    look : str
        The last full look at all directories; what another look found overrides whatever was known.
    folded : dict of str to int
        Per writer, up to which of its change files all are folded in.
    stamp : str
        The state of the directory of all traces whose names are accounted for; empty if none is.
    foreign : str
        The state of files that are bound elsewhere.
    strangers : tuple of str
        Directories among the traces whose names are no trace keys.
    size, crc : int
        The bytes before the footer: how many, and their CRC-32.
    footer : str
        The CRC-32 of the footer, eight hexadecimal digits, itself taken for zeros; empty in a snapshot of old.
    """

    binding: str
    generation: int
    look: str = ""
    folded: dict[str, int] = field(default_factory=dict)
    stamp: str = ""
    foreign: str = ""
    strangers: tuple[str, ...] = ()
    size: int = 0
    crc: int = 0
    footer: str = ""


def snapshot_name(generation: int, binding: str) -> str:
    """Return a snapshot's file name."""
    return f"snapshot-{generation:012d}-{binding}.parquet"


def parse_snapshot_name(name: str) -> tuple[int, str] | None:
    """Return the generation and binding of a snapshot's name, or None.

    Examples
    --------
    >>> parse_snapshot_name("snapshot-000000000007-5f3a9c21.parquet")
    (7, '5f3a9c21')
    """
    match = _NAME.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


def encode_snapshot(info: SnapshotInfo, rows: pa.RecordBatchReader) -> bytes:
    """Return a snapshot's bytes; `rows` have the columns of `COLUMNS`, in batches of `ROW_GROUP_ROWS`."""
    sink = BytesIO()
    with pq.ParquetWriter(
        sink,
        SCHEMA,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        store_schema=False,
    ) as writer:
        for batch in rows:
            writer.write_table(pa.Table.from_batches([batch]).cast(SCHEMA))
        written = sink.getvalue()
        told = replace(info, size=len(written), crc=zlib.crc32(written), footer=_UNKNOWN)
        metadata = json.dumps({"format": FORMAT_VERSION, "catalog": asdict(told)}, separators=(",", ":"))
        writer.add_key_value_metadata({METADATA_KEY: metadata.encode()})
    footer = sink.getbuffer()[told.size :]
    return written + _footer_telling(bytes(footer), f"{zlib.crc32(footer):08x}")


def _footer_telling(footer: bytes, crc: str) -> bytes:
    """Return a footer with another CRC-32 of its own."""
    # What the snapshot says of itself comes behind the least and greatest values, which may say anything.
    before, name, after = footer.rpartition(_FOOTER_CRC)
    return before + name + crc.encode() + after[len(crc) :]


def snapshot_info(file: IO[bytes], what: str) -> SnapshotInfo:
    """Return what a snapshot says of itself, from its footer.

    Raises
    ------
    CorruptFileError
        It is torn, changed, from a newer version, or no snapshot.
    """
    try:
        parquet = pq.ParquetFile(file)
        told: dict[str, Any] = json.loads((parquet.metadata.metadata or {})[METADATA_KEY])
        if told["format"] != FORMAT_VERSION:
            raise CorruptFileError(f"{what} has format version {told['format']}")
        if not parquet.schema_arrow.equals(SCHEMA):
            raise CorruptFileError(f"{what} has other columns")
        catalog = {"footer": "", **told["catalog"], "strangers": tuple(told["catalog"]["strangers"])}
        for name, default in asdict(SnapshotInfo("", 0)).items():
            stated(catalog, name, type(default))
        if not 0 <= catalog["size"] <= _MOST_BYTES:
            raise ValueError(f"it says that it has {catalog['size']} bytes")
        return SnapshotInfo(**catalog)
    except (*MALFORMED, pa.ArrowException, OSError) as error:
        if isinstance(error, CorruptFileError):
            raise
        raise CorruptFileError(f"{what} is no snapshot ({error!r})") from None


def checked(info: SnapshotInfo, file: IO[bytes], what: str) -> Iterator[bytes]:
    """Give all bytes of a snapshot's file; at the end all are proven, as those of a derived file have to be.

    Raises
    ------
    CorruptFileError
    """
    crc, left = 0, info.size
    while left and (piece := file.read(min(left, _PIECE_BYTES))):
        crc, left = zlib.crc32(piece, crc), left - len(piece)
        yield piece
    footer = file.read()
    is_whole = not info.footer or f"{zlib.crc32(_footer_telling(footer, _UNKNOWN)):08x}" == info.footer
    if (crc, left) != (info.crc, 0) or not is_whole:
        raise CorruptFileError(f"{what} is torn or changed")
    yield footer
