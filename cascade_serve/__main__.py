"""``python -m cascade_serve`` is the ``cascade-serve`` command."""

from cascade_serve.cli.app import main

if __name__ == "__main__":
    main()
