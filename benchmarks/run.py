"""All measurements behind benchmarks/RESULTS.md, one after the other, as ``make bench`` runs them.

Those on real images need ``CASCADE_SERVE_DATA``, a folder with ``cifar10-jpeg-val.tar.gz`` and ``cifar10-resnet/``, and
are left out without it.
"""

import os
import subprocess
import sys
from pathlib import Path

OUT = Path("bench_out")


def run(*arguments: str | Path) -> None:
    """Show a command, run it, and stop where it fails."""
    command = [sys.executable, *map(str, arguments)]
    print(f"\n$ python {' '.join(map(str, arguments))}", flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    """Measure everything that can be measured here."""
    OUT.mkdir(exist_ok=True)
    run("benchmarks/planner.py")
    run("examples/demo.py", "--out", OUT / "demo")
    run("-m", "benchmarks.serving", OUT / "demo/repository/digits/1", OUT / "demo/test")
    data = os.environ.get("CASCADE_SERVE_DATA")
    if data is None:
        print("\nCASCADE_SERVE_DATA is not set: the measurements on CIFAR-10-JPEG are left out")
        return
    images, weights = Path(data) / "cifar10-jpeg-val.tar.gz", Path(data) / "cifar10-resnet"
    run("-m", "benchmarks.committee", images, weights, "--out", OUT / "committee")
    run("-m", "benchmarks.cross_validation", OUT / "committee/zoo/cifar10")
    bundle, test = OUT / "committee/repository/cifar10/1", OUT / "committee/test"
    for policy in ("default", "reference"):
        run("-m", "benchmarks.serving", bundle, test, "--policy", policy)


if __name__ == "__main__":
    main()
