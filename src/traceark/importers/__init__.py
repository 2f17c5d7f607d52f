"""Importers: one module per source format, behind the interface in `base`."""
