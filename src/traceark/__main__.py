"""The command line as ``python -m traceark``, for where its program is not on the path."""

from traceark.cli import main

if __name__ == "__main__":
    main()
