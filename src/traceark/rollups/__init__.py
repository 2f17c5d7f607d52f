"""Rollups: a few large Parquet files over all sealed traces, derived from their parts by `optimize`.

They hold nothing that the trace directories do not; deleting them loses only time.
"""
