"""`python -m amnestic` is the command line."""

from amnestic.cli import main

if __name__ == "__main__":
    main()
