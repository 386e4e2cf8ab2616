"""A wheel carries everything that an installed exflow needs, and finds it there."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, as pip would lay it out."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_holds_the_package_and_the_signatures_and_nothing_else(installed: Path) -> None:
    assert sorted(each.name for each in installed.iterdir()) == ["classifier", "exflow-0.1.0.dist-info"]
    shipped = {each.name for each in (installed / "classifier" / "signatures").iterdir()}
    assert shipped == {each.name for each in (ROOT / "signatures").iterdir()}
    assert (installed / "classifier" / "py.typed").exists()


def test_the_signatures_are_found_inside_it(installed: Path, tmp_path: Path) -> None:
    code = "from classifier.rulebook import find_directory, load; load(); print(find_directory())"
    environment = {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert Path(done.stdout.decode().strip()) == installed / "classifier" / "signatures"
