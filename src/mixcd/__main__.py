"""`python -m mixcd` is `mixcd`."""

from mixcd.cli import main

if __name__ == "__main__":
    main()
