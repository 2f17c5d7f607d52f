"""A spool: an archive on a local disk that takes what is written, and from which it is shipped to another archive."""
