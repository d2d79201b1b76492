"""`python -m edgetl` is the same as `edgetl`."""

from edgetl.cli import main

if __name__ == "__main__":
    main()
