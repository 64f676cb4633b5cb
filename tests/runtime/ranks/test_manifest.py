"""What a manifest and a table say of ranks, and what of it cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mpkir.errors import MpkirError
from mpkir.runtime.artifact import Artifact
from mpkir.runtime.json_records import decode, encode
from mpkir.runtime.manifest import Buffer, Manifest, Part, Piece, Place, Shard
from mpkir.runtime.table import Table, build_table
from mpkir.runtime.table_text import assemble, disassemble


def test_round_trips(two_ranks: Artifact):
    manifest, table = two_ranks.manifest, two_ranks.table
    assert Manifest.from_json(manifest.to_json(), "m.json") == manifest
    assert (table.ranks, table.peer_events, table.first_peer_event) == (2, 3, 0)
    text = disassemble(table)
    assert "ranks 2" in text
    assert "event read arrivals 4 peer" in text
    assert assemble(text) == table
    assert assemble(text.replace("mpkt 3", "mpkt 1")) == table


def test_neighbours_have_the_same_part_where_there_are_fewer():
    assert [Shard(0, 2).part(Place(rank, 4)) for rank in range(4)] == [0, 0, 1, 1]
    assert Shard(1, 4).whole((8, 3, 2)) == (8, 12, 2)
    pieces = Shard(1, 4, (Piece(8, 4), Piece(6, 2), Piece(3, 1)))
    assert pieces.whole((5, 8)) == (5, 17)
    assert pieces.spans(8, Place(2, 4)) == [(4, 6), (11, 14), (14, 17)]
    assert decode(Shard, encode(pieces), "a shard") == pieces


def _with(manifest: Manifest, number: int, **changes: Any) -> Manifest:
    buffers = list(manifest.buffers)
    buffers[number] = replace(buffers[number], **changes)
    return replace(manifest, buffers=tuple(buffers))


X, W, PARTS = 0, 1, 2


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (X, {"shard": Shard(0, 2)}, "'x': no scratch or input is a shard"),
        (X, {"exchange": True}, "'x': only scratch is exchanged, not input"),
        (W, {"shard": Shard(2, 2)}, r"'w': a shard of dimension 2 of a shape \[32, 32\]"),
        (W, {"shard": Shard(0, 3)}, "'w': 2 ranks do not share 3 parts"),
        (
            W,
            {"shard": None, "source": None, "parts": (Part("w", 32, Shard(0, 4)),)},
            "'w': 2 ranks do not share 4 parts",
        ),
        (
            W,
            {"shard": Shard(0, 2, (Piece(32, 2), Piece(8, 1)))},
            "'w': parts of pieces, 24 indices, of a weight that has 32",
        ),
        (
            W,
            {"shard": Shard(0, 2, (Piece(32, 2), Piece(33, 2)))},
            "'w': pieces that do not fall into equal parts",
        ),
        (
            W,
            {"shard": Shard(0, 2, (Piece(32, 2), Piece(48, 3)))},
            "'w': 2 ranks do not share 3 parts",
        ),
        (PARTS, {"shape": (3, 1, 32)}, r"'parts': 2 ranks exchange a buffer of shape \[3, 1, 32\]"),
    ],
)
def test_buffers_that_cannot_be(
    two_ranks: Artifact, number: int, changes: dict[str, Any], message: str
):
    with pytest.raises(MpkirError, match=message):
        _with(two_ranks.manifest, number, **changes).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 0}, "0 ranks, expected 1 to 16"),
        ({"ranks": 17}, "17 ranks, expected 1 to 16"),
        ({"peer_events": 4}, "4 of 3 events are peers', for 2 ranks"),
        ({"ranks": 1}, "3 of 3 events are peers', for 1 ranks"),
        ({"ranks": 1, "peer_events": 0}, "'parts': 1 ranks exchange"),
    ],
)
def test_ranks_that_cannot_be(two_ranks: Artifact, changes: dict[str, Any], message: str):
    manifest = replace(two_ranks.manifest, **changes)
    if changes == {"ranks": 1, "peer_events": 0}:
        manifest = _with(manifest, W, shard=None)
    with pytest.raises(MpkirError, match=message):
        manifest.validate()


def test_a_rank_alone_has_no_shards(two_ranks: Artifact):
    weight = Buffer("w", "weight", "float32", (4, 4), source="w", shard=Shard(0, 2))
    manifest = replace(two_ranks.manifest, ranks=1, peer_events=0, buffers=(weight,))
    with pytest.raises(MpkirError, match="1 ranks do not share 2 parts"):
        replace(manifest, signature=None).validate()


def test_arrivals_of_peers_come_from_all_ranks(two_ranks: Artifact):
    table = two_ranks.table
    with pytest.raises(MpkirError, match=r"'there.0' has 2 arrivals .* its tasks signal 3"):
        replace(table, ranks=3).validate()
    with pytest.raises(MpkirError, match=r"'there.0' has 2 arrivals .* its tasks signal 1"):
        replace(table, peer_events=1).validate()


def test_peers_release_no_dynamic_tasks():
    names = replace(_dynamic(0).names)
    assert names.events == ("all", "end")
    with pytest.raises(MpkirError, match=r"dynamic y\[0\] is released by other ranks"):
        _dynamic(2)


def _dynamic(peers: int) -> Table:
    """x[2], then y[1], which the end of x releases."""
    from mpkir.runtime.table import TableNames

    local = 2 if peers else 1
    return build_table(
        [[(0, 0, 1, local, 1, 0, 2)]],
        [(0, 1, 0, 0, 0), (1, 1, 0, 0, 0)],
        [2 * local, local],
        TableNames(("b",), ("x", "y"), ("x", "y"), ("all", "end")),
        dynamic=[(1, 0, 0, 2 * local, 0, 1, 1)],
        ranks=2,
        peer_events=peers,
    )


def test_text_says_peers_last(two_ranks: Artifact):
    text = disassemble(two_ranks.table)
    wrong = text.replace("event read arrivals 4 peer", "event read arrivals 2")
    with pytest.raises(MpkirError, match="an event of this rank alone behind those of its peers"):
        assemble(wrong)
    assert np.array_equal(assemble(text).events, [2, 2, 4])
