"""``python -m fedvpa``: the same as ``fedvpa``."""

from fedvpa.cli.main import main

if __name__ == "__main__":
    main()
