"""Codecs: records to JSON lines and to Parquet, and back."""
