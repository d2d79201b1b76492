"""Whether a manifest is one that this edgetl reads, and describes the members it comes with."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from edgetl.bundle.manifest import BUNDLE_VERSION, Manifest
from edgetl.errors import BundleError
from edgetl.inputs.base import INPUTS
from edgetl.tasks.base import TASKS, decode_stored

MANIFEST = "manifest.json"
MAX_MANIFEST = 4 << 20

EXPORT = "export it again with `edgetl export`."
_UPGRADE = "export again with this version of edgetl, or install the one that wrote it."
_ADD = "use a newer edgetl, or install the package that adds it."
_HEX = re.compile("[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}(-rc)?")


def require(condition: object, otherwise: str, fix: str = EXPORT) -> None:
    """BundleError with what is `otherwise` so; who knows the bundle's path names it."""
    if not condition:
        raise BundleError(otherwise, fix=fix)


def parse_manifest(data: bytes) -> Manifest:
    """The manifest; its version is looked at before anything else in it."""
    require(len(data) <= MAX_MANIFEST, f"has a manifest over {MAX_MANIFEST >> 20} MiB, the limit")
    try:
        tree = msgspec.json.decode(data, type=dict[str, Any])
        version = str(tree.get("edgetl_bundle"))
        require(_VERSION.fullmatch(version), f"states no version in its manifest ({version!r})")
        reads = f"is of version {version}, and this edgetl reads {BUNDLE_VERSION}"
        require(_is_read(version), reads, _UPGRADE)
        _check_known(tree)
        manifest = msgspec.convert(tree, Manifest, dec_hook=decode_stored)
        settings = manifest.task.Settings
        candidates = tuple(
            msgspec.structs.replace(c, settings=msgspec.convert(c.settings or {}, settings))
            for c in manifest.candidates
        )
        return msgspec.structs.replace(manifest, candidates=candidates)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BundleError(f"has an invalid manifest: {error}", fix=EXPORT) from error


def _is_read(version: str) -> bool:
    """A release candidate (-rc) is read by its own version only, a final one by its major one."""
    if "-rc" in version + BUNDLE_VERSION:
        return version == BUNDLE_VERSION
    return version.partition(".")[0] == BUNDLE_VERSION.partition(".")[0]


def _check_known(tree: dict[str, Any]) -> None:
    """BundleError for a task, an input or anything else that this edgetl does not know."""
    for key, registry in (("task", TASKS), ("input", INPUTS)):
        stated = tree.get(key)
        kind = stated.get("type") if isinstance(stated, dict) else None
        if isinstance(kind, str) and kind not in registry:
            raise BundleError(
                f"has the {key} {kind[:80]!r}, which this edgetl does not know", fix=_ADD
            )
    needs = tree.get("needs")
    if isinstance(needs, list) and needs:
        raise BundleError(f"needs {str(needs[0])[:80]!r}, which this edgetl lacks", fix=_UPGRADE)


def check_manifest(manifest: Manifest, sizes: dict[str, int]) -> None:
    """Refuse a manifest that does not describe the members it comes with."""
    listed, held = set(manifest.members), sizes.keys() - {MANIFEST}
    for name in sorted(listed ^ held):
        require(name in held, f"lists {name!r} in its manifest but does not hold it")
        require(name in listed, f"holds {name!r}, which its manifest does not list")
    require(len(listed) == len(manifest.members), "lists a member twice in its manifest")
    artifacts = {artifact.path for artifact in manifest.artifacts}
    require(len(artifacts) == len(manifest.artifacts), "describes an artifact twice")
    for a in manifest.artifacts:
        require(a.path in held, f"describes artifact {a.path!r} but does not hold it")
        require(a.size == sizes[a.path], f"holds {sizes[a.path]} bytes of {a.path!r}, not {a.size}")
        require(_HEX.fullmatch(a.sha256), f"states no valid SHA-256 of artifact {a.path!r}")
    labels = manifest.task.labels
    require(len(set(labels)) == len(labels), "names a class twice")
    require(
        manifest.outputs == manifest.task.outputs(), "has outputs that are not those of its task"
    )
    names = {c.name for c in manifest.candidates}
    require(len(names) == len(manifest.candidates), "describes a candidate twice")
    for c in manifest.candidates:
        require(c.rejected is None or not c.artifacts, f"has artifacts of rejected {c.name!r}")
        require(manifest.task.accepts(c.settings), f"has settings of {c.name!r} for other classes")
        whole = c.rejected is not None or (c.artifacts and artifacts.issuperset(c.artifacts))
        require(whole, f"lacks artifacts of its candidate {c.name!r}")
    shipped = {c.name for c in manifest.candidates if c.rejected is None}
    require(manifest.chosen in shipped, f"chooses {manifest.chosen!r}, which it does not ship")
    golden = manifest.golden
    expected = [member for outputs in golden.outputs.values() for member in outputs.values()]
    for name in (golden.inputs, golden.jpeg, golden.pixels, *expected):
        require(name in held, f"names {name!r} for its self-test but does not hold it")
