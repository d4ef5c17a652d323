"""``python -m training``: the command line without an installed script."""

from training.cli.app import main

if __name__ == "__main__":
    main()
