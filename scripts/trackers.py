"""Test what services hold of a run, each installed in an environment of its own.

`python scripts/trackers.py [NAME ...]`: for each service (all, if none is named), make an environment under
`.venv-trackers/`, install what tuner's message says, let it find everything else here, and run its test.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import sysconfig
import venv

from tuner.tracking.services import SERVICES
from wheels import ROOT

WORK = ROOT / ".venv-trackers"
ELSEWHERE = {"wandb"}  # which `make test` has, and tests with a whole run


def main() -> int:
    """Test the services; return 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="values of report_to (default: all)")
    names = parser.parse_args().names or sorted(SERVICES.keys() - ELSEWHERE)
    return max([check_service(name) for name in names])


def check_service(name: str) -> int:
    """Install a service, run its test, and return 1 if it fails."""
    folder = WORK / name
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", *shlex.split(SERVICES[name].install)]
    if subprocess.run(install, check=False).returncode:
        return 1
    # After the installation, so that pip sees an empty environment: else it might choose an old version that fits.
    here = sysconfig.get_path("purelib")
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "everything_else.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    test = [str(python), "-m", "pytest", "-q", "-m", "trackers", "-k", f"test_{name}", "tests/test_tracker_services.py"]
    return int(bool(subprocess.run(test, cwd=ROOT, check=False).returncode))


if __name__ == "__main__":
    sys.exit(main())
