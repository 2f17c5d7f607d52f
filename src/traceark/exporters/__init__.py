"""Exporters: runs for other programs and for people."""
