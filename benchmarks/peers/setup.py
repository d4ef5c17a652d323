"""Make the peers' virtual environments, one each: ``python -m benchmarks.peers.setup [--only plain,triton]``.

They lie in .cache/peers, which git ignores; versions are pinned in requirements/. An environment whose requirements
have not changed since it was made is left as it is.
"""

import argparse
import shutil
import subprocess
import sys
import venv

from benchmarks.peers.peer import ENVIRONMENTS, HERE

REQUIREMENTS = HERE / "requirements"
NAMES = tuple(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))

_STAMP = "installed.txt"


def make(name: str) -> bool:
    """Make one environment; tell whether there was something to do."""
    folder, wanted = ENVIRONMENTS / name, (REQUIREMENTS / f"{name}.txt").read_text()
    stamp = folder / _STAMP
    if stamp.exists() and stamp.read_text() == wanted:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    # The files name all that is needed, so there is nothing to resolve.
    arguments = ["--quiet", "--no-deps", "--requirement", str(REQUIREMENTS / f"{name}.txt")]
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", *arguments], check=True)
    stamp.write_text(wanted)
    return True


def main() -> None:
    """Make those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {', '.join(NAMES)}")
    for name in parser.parse_args().only.split(","):
        if name not in NAMES:
            sys.exit(f"--only: got {name!r}; must be some of {', '.join(NAMES)}")
        print(f"{name}: {'made' if make(name) else 'is there'}", flush=True)


if __name__ == "__main__":
    main()
