"""Manifests come back from JSON as they were; every misfit is named with its place."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mpkir.errors import MpkirError
from mpkir.runtime.manifest import (
    Buffer,
    FileRecord,
    LanguageRoles,
    Manifest,
    Part,
    Signature,
    Target,
)


def test_round_trip(manifest: Manifest):
    full = dataclasses.replace(
        manifest,
        language=LanguageRoles("x", "z", capacity=64, vocabulary=4, stop_tokens=(2, 3)),
        files={"kernel.so": FileRecord("ab", 12)},
        info={"floor_ms": 0.5, "model": "m", "layers": 3},
    )
    assert Manifest.from_json(full.to_json(), "manifest.json") == full


# path of the entry, new value (or DELETE), message
DELETE = object()
DAMAGE = [
    (("format",), "zip", "m.json: this is not the manifest of an mpkir artifact"),
    (("format_version",), 99, "m.json: the artifact has format version 99"),
    (("binary",), DELETE, "m.json: entry 'binary' is missing"),
    (("colour",), "red", "m.json: unknown entry 'colour'"),
    (("binary",), 3, "m.json.binary: found int, expected str"),
    (("tokens_per_step",), True, "m.json.tokens_per_step: found bool, expected int"),
    (("tokens_per_step",), 0, "tokens_per_step and workers must be at least 1"),
    (("buffers",), {}, "m.json.buffers: found dict, expected list"),
    (("buffers", 1, "shape", 0), "4", "m.json.buffers[1].shape[0]: found str, expected int"),
    (("buffers", 1, "shape", 0), -4, "buffer 'w': shape [-4] has a negative size"),
    (("buffers", 1, "dtype"), "f8", "buffer 'w': unknown dtype 'f8'"),
    (("buffers", 1, "kind"), "thing", "m.json.buffers[1].kind: found 'thing', expected one of"),
    (("buffers", 1, "source"), None, "weights and constants have a source"),
    (("buffers", 3, "initial"), 1, "only a state has an initial value"),
    (("target", "kind"), "tpu", "m.json.target.kind: found 'tpu'"),
    (("signature", "inputs", 0), "q", "an input is 'q', but no buffer has this name"),
    (("info",), {"a": []}, "m.json.info.a: found list, expected str or int or float"),
]


@pytest.mark.parametrize(("path", "value", "message"), DAMAGE)
def test_misfits(manifest: Manifest, path: tuple[Any, ...], value: object, message: str):
    tree = json.loads(manifest.to_json())
    *parents, last = path
    place = tree
    for key in parents:
        place = place[key]
    if value is DELETE:
        del place[last]
    else:
        place[last] = value
    with pytest.raises(MpkirError) as caught:
        Manifest.from_json(json.dumps(tree), "m.json")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_no_manifest_at_all(text: str):
    with pytest.raises(MpkirError, match=r"m\.json: this is not"):
        Manifest.from_json(text, "m.json")


def test_roles_name_buffers(manifest: Manifest):
    language = LanguageRoles("ids", "z", capacity=64, vocabulary=4)
    with pytest.raises(MpkirError, match="'tokens' is 'ids', but no buffer"):
        dataclasses.replace(manifest, language=language).validate()
    with pytest.raises(MpkirError, match="an output is 'q'"):
        dataclasses.replace(manifest, signature=Signature(("x",), ("q",))).validate()


def test_gpu_architecture(manifest: Manifest):
    target = Target("cuda", "h100", "hopper", workers=132)
    with pytest.raises(MpkirError, match="'hopper' is no GPU architecture"):
        dataclasses.replace(manifest, target=target).validate()


def test_names_are_in_the_order_of_ids(manifest: Manifest):
    added = dataclasses.replace(
        manifest, buffers=(*manifest.buffers, Buffer("q", "input", "bool", ()))
    )
    assert added.names.buffers == ("x", "w", "scale", "y", "z", "q")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": (Part("a", 4), Part("b", 5))}, "parts of [4, 5] rows do not fill the shape [8"),
        ({"source": "c"}, "only weights and constants have parts, instead of a source"),
        ({"kind": "scratch"}, "inputs, outputs and scratch have no source"),
        ({"packed": True, "shape": (8, 32)}, "packed parts are whole blocks, not [4, 4] rows"),
    ],
)
def test_parts_that_misfit(manifest: Manifest, changes: dict[str, Any], message: str):
    good = Buffer("j", "weight", "bfloat16", (8, 3), parts=(Part("a", 4), Part("b", 4)))
    assert good.sources == ("a", "b")
    buffers = manifest.buffers
    whole = dataclasses.replace(manifest, buffers=(*buffers, good))
    assert Manifest.from_json(whole.to_json(), "m.json") == whole
    bad = dataclasses.replace(good, **changes)
    with pytest.raises(MpkirError) as caught:
        dataclasses.replace(manifest, buffers=(*buffers, bad)).validate()
    assert message in str(caught.value)
