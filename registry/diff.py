"""What changed from one version to another, item by item. Pure: two manifests in, a list of changes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from registry.manifest import Manifest, TensorSpec

Section = Literal["signature", "operators", "format", "config", "size", "files", "metrics", "lineage", "tags", "card"]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True)
class Change:
    """One item that differs. None is an item that one side lacks."""

    section: Section
    item: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Diff:
    """Every change, by section in the order of `SECTIONS`."""

    changes: tuple[Change, ...]
    is_compatible: bool
    """Whether a caller of the version before can go on as it is: every input is taken as it was, every output is still
    there as it was."""

    def of(self, section: Section) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.section == section)

    def to_dict(self) -> dict[str, Any]:
        return {"compatible": self.is_compatible, "changes": [asdict(change) for change in self.changes]}


def diff(before: Manifest, after: Manifest) -> Diff:
    changes = sorted(_changes(before, after), key=lambda change: SECTIONS.index(change.section))
    return Diff(tuple(changes), is_compatible(before, after))


def is_compatible(before: Manifest, after: Manifest) -> bool:
    old_inputs, new_inputs = _by_name(before.inputs), _by_name(after.inputs)
    old_outputs, new_outputs = _by_name(before.outputs), _by_name(after.outputs)
    return (
        old_inputs.keys() == new_inputs.keys()
        and all(_takes(new_inputs[name], old) for name, old in old_inputs.items())
        and all(name in new_outputs and _takes(old, new_outputs[name]) for name, old in old_outputs.items())
    )


def _takes(wide: TensorSpec, narrow: TensorSpec) -> bool:
    """Whether everything that fits `narrow` fits `wide`."""
    return (
        wide.datatype == narrow.datatype
        and len(wide.shape) == len(narrow.shape)
        and all(w == -1 or w == n for w, n in zip(wide.shape, narrow.shape, strict=True))
    )


def _changes(before: Manifest, after: Manifest) -> Iterator[Change]:
    yield from _signature("input", before.inputs, after.inputs)
    yield from _signature("output", before.outputs, after.outputs)
    yield from _mapping("operators", before.operators, after.operators)
    yield from _mapping("format", _format(before), _format(after))
    yield from _mapping("config", {"config.pbtxt": before.config_text}, {"config.pbtxt": after.config_text})
    yield from _mapping("size", {"bytes": _size(before)}, {"bytes": _size(after)})
    yield from _mapping("files", _files(before), _files(after))
    yield from _mapping("metrics", before.metrics, after.metrics)
    yield from _mapping("lineage", asdict(before.lineage), asdict(after.lineage))
    yield from _mapping("tags", before.tags, after.tags)
    yield from _mapping("card", _card(before), _card(after))


def _signature(kind: str, before: Sequence[TensorSpec], after: Sequence[TensorSpec]) -> Iterator[Change]:
    old = {f"{kind} {spec.name}": f"{spec.datatype} {list(spec.shape)}" for spec in before}
    new = {f"{kind} {spec.name}": f"{spec.datatype} {list(spec.shape)}" for spec in after}
    yield from _mapping("signature", old, new)


def _mapping(section: Section, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for item in sorted(before.keys() | after.keys()):
        old, new = before.get(item), after.get(item)
        if old != new:
            yield Change(section, item, old, new)


def _by_name(specs: Sequence[TensorSpec]) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in specs}


def _format(manifest: Manifest) -> dict[str, Any]:
    return {"format": manifest.format, "opset": manifest.opset}


def _files(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.sha256 for file in manifest.files}


def _size(manifest: Manifest) -> int:
    return sum(file.size for file in manifest.files)


def _card(manifest: Manifest) -> Mapping[str, Any]:
    card: Any = manifest.card
    return card if isinstance(card, Mapping) else {"text": card}
